export interface Mutant {
  readonly name: string
  readonly claim: string
  readonly file: string
  readonly find: string
  readonly replace: string
  readonly test: string
  readonly caughtBy: string
}
export const mutants: ReadonlyArray<Mutant>

export const moduleOf: (name: string, text: string) => Promise<string>

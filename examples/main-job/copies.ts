/** The names of the copies that the killed writer makes: in which round, the how manieth, and of which file. */
export const copyKey = (prefix: string, index: number, key: string): string =>
  `${prefix}/${String(index).padStart(6, "0")}/${key}`

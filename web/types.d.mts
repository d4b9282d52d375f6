export interface TypesFile {
  schema: string;
  types: string;
  name: string;
  from: string;
  imports?: string[];
  /** Whether it has definitions that nothing of its refers to. */
  loose?: boolean;
}
export declare const FILES: TypesFile[];
export declare const typesOf: (file: TypesFile) => Promise<string>;

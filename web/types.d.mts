export interface TypesFile {
  schema: string;
  types: string;
  name: string;
  from: string;
}
export declare const FILES: TypesFile[];
export declare const typesOf: (file: TypesFile) => Promise<string>;

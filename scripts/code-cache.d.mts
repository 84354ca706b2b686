export function wrapped(source: string): string;
export function loader(path: string): string;

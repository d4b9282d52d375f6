/** Light or dark: the system's preference until one is chosen by hand. */

const KEY = "residscope:theme";
type Name = "light" | "dark";

function stored(): Name | null {
  try {
    const value = localStorage.getItem(KEY);
    return value === "light" || value === "dark" ? value : null;
  } catch {
    return null; // storage may be forbidden
  }
}

class Theme {
  name: Name = $state("light");

  start(): () => void {
    const system = matchMedia("(prefers-color-scheme: dark)");
    const follow = () => this.show(stored() ?? (system.matches ? "dark" : "light"));
    follow();
    system.addEventListener("change", follow);
    return () => system.removeEventListener("change", follow);
  }

  toggle(): void {
    const name = this.name === "dark" ? "light" : "dark";
    try {
      localStorage.setItem(KEY, name);
    } catch {
      // it holds for this page only
    }
    this.show(name);
  }

  private show(name: Name): void {
    document.documentElement.dataset.theme = name;
    this.name = name;
  }
}

export const theme = new Theme();

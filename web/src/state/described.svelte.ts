import type { Alike } from "../connect/said.generated";
import type { DirectionStore } from "./directions.svelte";
import type { Session } from "./session.svelte";
import type { Streams } from "./streams.svelte";
import type { ViewStore } from "./view.svelte";

/** Whether somebody has saved and described the direction on screen; asked once its picture is there, never while a slider moves. */
export class Described {
  alike: Alike | null = $state.raw(null);
  private wanted = "";

  constructor(
    private session: Session,
    private view: ViewStore,
    private streams: Streams,
    private directions: DirectionStore,
  ) {}

  /** Call from an effect. */
  follow(): void {
    const { ref } = this.directions;
    const { model, state } = this.session;
    if (this.view.dragging) return;
    const about = ref && model && typeof state?.library === "number" ? JSON.stringify([model.hash, ref]) : "";
    const key = about && `${about}|${state?.library}`;
    if (key === this.wanted || (key && !this.streams.settled)) return;
    if (!this.wanted.startsWith(`${about}|`)) this.alike = null; // of another direction; a newer answer about the same one replaces it
    this.wanted = key;
    if (!ref || !key) return;
    this.session.connector.query("library_alike", { direction: ref }).then(
      (alike) => this.wanted === key && (this.alike = alike.entries.length ? alike : null),
      () => {}, // nothing is said of what people say
    );
  }
}

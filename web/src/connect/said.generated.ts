/** Made by `make view-types` from the state and the answers to intents and queries: change it there. */

import type {PlainView} from "../views/kinds/plain.generated";

import type {Tensor} from "./safetensors";

/**
 * What a session says.
 */
export interface Said {
  state: State;
  intents: {
    add_edit: Added;
    cancel: null;
    cancel_run: null;
    compare_companion: null;
    compare_run: null;
    delete_item: null;
    delete_stack: null;
    draw_prompts: DrawingStarted;
    export_features: ExportStarted;
    forget_dictionary: null;
    forget_prompt: null;
    group_nodes: null;
    import_direction: SavedName;
    import_item: Imported;
    import_stack: null;
    keep_made: KeptNames;
    keep_model: null;
    library_blind: BlindStarted;
    library_comment: Comment;
    library_delete: Undoable;
    library_delete_comment: Undoable;
    library_delete_description: Undoable;
    library_describe: Description;
    library_edit_description: Description;
    library_guess: BlindResult;
    library_import: Received;
    library_open: SavedName;
    library_rename: Entry;
    library_save: Entry;
    library_sign_in: Me;
    library_sign_out: Me;
    library_undo: Undone;
    library_vote: Description;
    load_model: null;
    name_node: null;
    open_link: OpenedLink;
    python: Code;
    redo: null;
    rename_group: null;
    rename_item: null;
    rename_stack: null;
    restore_item: null;
    restore_run: null;
    save_prompt: null;
    save_stack: null;
    select: null;
    set_chat: null;
    set_companion: null;
    set_edits: RefusedEdits | null;
    set_metric: null;
    set_other: null;
    set_prompt: null;
    set_tokens: null;
    start: Started;
    swap_companion: null;
    undo: null;
    undo_graph: null;
    ungroup_nodes: null;
  };
  queries: {
    atlases: Atlases;
    attention: {
      metadata: {
        heads: string;
      };
      /**
       * pattern: of the heads together; weighted, |A v W_O|.
       */
      tensors: {
        /**
         * F32 [query, key]
         */
        pattern: Tensor<Float32Array>;
      };
    };
    coef: {
      metadata: {
        rows: string;
        fitted_row: string;
      };
      tensors: {
        /**
         * F32 [row, pos, k]
         */
        coef: Tensor<Float32Array>;
        /**
         * F32 [row, k]
         */
        offset: Tensor<Float32Array>;
        /**
         * F32 [row, pos]
         */
        sigma?: Tensor<Float32Array>;
        /**
         * U8 [row, pos]
         */
        sink: Tensor<Uint8Array>;
      };
    };
    continuations: ContinuationsFound;
    cost: Cost;
    dictionary: DictionaryDetail;
    evidence: Evidence;
    feature: FeatureDetail;
    feature_effects: FeatureEffects;
    feature_effects_left: EffectsLeft;
    feature_on: FeatureOn;
    features: FeatureList;
    features_cost: ExportCost;
    features_on: FeaturesOn;
    glossary: Terms;
    gram: Gram;
    graph: GraphShown;
    graph_edge: GraphEdgeRun;
    graph_find: GraphFound;
    graph_left: GraphLeft;
    graph_node: GraphNodeDetail;
    graph_proposals: GraphProposals;
    head_sum: Sum;
    item: ItemDetail;
    job: JobDetail;
    lens: LensReading;
    lens_grid: {
      metadata: {
        texts: string;
        first: string;
      };
      /**
       * As `rs.logit_lens` has them: the k likeliest next tokens and their probabilities; entropy and KL from the run's own next
       */
      tensors: {
        /**
         * I64 [row, pos, k]
         */
        top: Tensor<Float64Array>;
        /**
         * F32 [row, pos, k]
         */
        probability: Tensor<Float32Array>;
        /**
         * F32 [row, pos]
         */
        entropy: Tensor<Float32Array>;
        /**
         * F32 [row, pos]
         */
        kl: Tensor<Float32Array>;
        /**
         * I64 [row, pos]
         */
        rank: Tensor<Float64Array>;
        /**
         * F32 [row, pos]
         */
        chance: Tensor<Float32Array>;
      };
    };
    lens_rows: RowsLens;
    library_alike: Alike;
    library_blind_test: BlindTest;
    library_features: SavedFeatures;
    library_me: Me;
    library_read: Whole;
    library_search: Page;
    library_somebody: Somebody;
    link: ReadLink;
    logit_sum: Sum;
    logits: {
      metadata: {};
      tensors: {
        /**
         * F32 [row, pos]
         */
        value: Tensor<Float32Array>;
        /**
         * F32 [row, pos]
         */
        offset: Tensor<Float32Array>;
      };
    };
    manifest: Manifest;
    map: {
      metadata: {
        pos: string;
        metric: string;
        terms: string;
        absent: string;
      };
      /**
       * Direct effects in logits at one position, and patterns made small.
       */
      tensors: {
        /**
         * F32 [layer]
         */
        attn: Tensor<Float32Array>;
        /**
         * F32 [layer, head]
         */
        heads: Tensor<Float32Array>;
        /**
         * F32 [layer]
         */
        attn_bias: Tensor<Float32Array>;
        /**
         * F32 [layer]
         */
        mlp?: Tensor<Float32Array>;
        /**
         * F32 [layer, head, key]
         */
        looks?: Tensor<Float32Array>;
        /**
         * U8 [layer, head, row, col]
         */
        thumbs?: Tensor<Uint8Array>;
      };
    };
    map_layer: {
      metadata: {
        pos: string;
        sites: string;
        absent: string;
      };
      /**
       * pattern: attention probabilities of a layer, in full; of a long prompt not at all. z_norm: the lengths of z.
       */
      tensors: {
        /**
         * F32 [head]
         */
        z_norm: Tensor<Float32Array>;
        /**
         * F32 [head, query, key]
         */
        pattern?: Tensor<Float32Array>;
        /**
         * I64 [k]
         */
        neuron?: Tensor<Float64Array>;
        /**
         * F32 [k]
         */
        neuron_effect?: Tensor<Float32Array>;
      };
    };
    map_stop: Stopped;
    probe: ProbeDetail;
    probe_prompt: ProbeExample;
    probe_reading: ProbeReading;
    prompts: PromptsAnswer;
    prompts_coef: {
      metadata: {};
      /**
       * `sigma`: in the lens space.
       */
      tensors: {
        /**
         * F32 [token, k]
         */
        coef: Tensor<Float32Array>;
        /**
         * F32 [k]
         */
        offset: Tensor<Float32Array>;
        /**
         * F32 [token]
         */
        norm: Tensor<Float32Array>;
        /**
         * U8 [token]
         */
        sink: Tensor<Uint8Array>;
        /**
         * F32 [token]
         */
        sigma?: Tensor<Float32Array>;
      };
    };
    prompts_logits: {
      metadata: {};
      tensors: {
        /**
         * F32 [token]
         */
        value: Tensor<Float32Array>;
        /**
         * F32 [token]
         */
        offset: Tensor<Float32Array>;
        /**
         * F32 [token]
         */
        norm: Tensor<Float32Array>;
        /**
         * U8 [token]
         */
        sink: Tensor<Uint8Array>;
      };
    };
    python: Code;
    read_data: ProbeChoices;
    read_direction: DirectionReading;
    score_sum: Sum;
    stack: StackEdits;
    stack_json: StackJson;
    stream: {
      metadata: {
        next_text: string;
      };
      /**
       * `next_id`, `next_p`: of every position, or of the last alone where the others are still to be computed.
       */
      tensors: {
        /**
         * F32 [row, pos]
         */
        norm: Tensor<Float32Array>;
        /**
         * U8 [row, pos]
         */
        sink: Tensor<Uint8Array>;
        /**
         * I64 [pos, k]
         */
        next_id: Tensor<Float64Array>;
        /**
         * F32 [pos, k]
         */
        next_p: Tensor<Float32Array>;
      };
    };
    strongest: StrongestCoordinates;
    token_table: TokenTableAnswer;
    tokens: Spelling;
  };
}
/**
 * Everything the page shows.
 */
export interface State {
  /**
   * Which session it is: another after the server was started again, whose runs have the same names.
   */
  session: string;
  /**
   * Counts what is to be computed: a run of a lower one is stale.
   */
  version: number;
  model: ModelInfo | null;
  /**
   * What the picker offers.
   */
  models: ModelOffer[];
  status: Status;
  prompt: Prompt | null;
  companion: Companion | null;
  other: Other | null;
  metric: Metric | null;
  edits: ShownEdit[];
  can_undo: boolean;
  can_redo: boolean;
  links: Links;
  /**
   * Newest last, at most 50.
   */
  runs: Run[];
  current: Current;
  selection: Selection;
  saved: SavedPrompt[];
  stacks: NamedStack[];
  directions: SavedDirection[];
  probes: ProbeInfo[];
  /**
   * Those that wait or run, and the latest 40 that ended.
   */
  jobs: Job[];
  items: Shelf;
  /**
   * Who has the page open.
   */
  present: Present[];
  /**
   * Counts the library's changes; null where there is none.
   */
  library: number | null;
  /**
   * Things to tell once, such as a damaged file moved aside.
   */
  notices: string[];
}
export interface ModelInfo {
  name: string;
  family: string;
  n_layers: number;
  n_heads: number;
  n_kv_heads: number;
  /**
   * How many heads read one KV head, by layer.
   */
  shared: number[];
  d_model: number;
  d_vocab: number;
  /**
   * Most tokens that a prompt may have.
   */
  context: number;
  dtype: string;
  device: string;
  threads: number;
  hash: string;
  bos: boolean;
  /**
   * The names of its special tokens: the end of a turn, the beginning of a text ...
   */
  special: string[];
  /**
   * Which chat template its tokenizer has.
   */
  template: string | null;
  certificate: Certificate;
  sites: SiteInfo[];
  dictionaries: DictionaryInfo[];
}
export interface Certificate {
  passed: boolean;
  worst: number;
  worst_check: string;
  cached: boolean;
  seconds: number;
  checks: Check[];
}
export interface Check {
  name: string;
  error: number;
  /**
   * The first position's own.
   */
  first: number;
  tolerance: number;
  passed: boolean;
  about: string;
}
export interface SiteInfo {
  name: string;
  layers: number;
  dims: string;
  /**
   * Why there is none here.
   */
  absent: string | null;
}
/**
 * A dictionary of the model. `id`: such as `pca@resid_post.23`, `nmf@z.3.h2`, `pca@resid_post.23#2`; never given twice.
 */
export interface DictionaryInfo {
  id: string;
  /**
   * Of its sites and tensors.
   */
  hash: string;
  site: string;
  write_site: string;
  /**
   * Of an encoder false: its coordinates are activations, and no products with a direction.
   */
  linear: boolean;
  /**
   * Whether it is read against the stream's rows, or against its own site in every layer.
   */
  beside_stream: boolean;
  /**
   * What an encoder's features go through last: relu, topk or jumprelu.
   */
  activation: string | null;
  head: number | null;
  /**
   * The site as people say it: `result.9 head 3`.
   */
  place: string;
  /**
   * pca, svd, nmf, mean_difference, unembedding, or what a file says that it is, such as sae.
   */
  kind: string;
  n: number;
  space: "raw" | "centred" | "lens";
  standardised: boolean;
  fitted_on: string;
  tokens: number;
  /**
   * It came with Residscope, and cannot be forgotten.
   */
  shipped: boolean;
  width: number;
}
/**
 * A model that may be loaded; `cached`: its weights are on this machine.
 */
export interface ModelOffer {
  name: string;
  about: string;
  cached: boolean;
}
export interface Status {
  phase: "empty" | "loading" | "running" | "idle" | "failed";
  detail: string;
  progress: number | null;
  forward_ms: number | null;
  error: ErrorBody | null;
  /**
   * The model that is being loaded, or could not be.
   */
  wanted: string | null;
}
/**
 * The one shape every refusal has on the wire; `message` holds the three that follow.
 */
export interface ErrorBody {
  type: string;
  message: string;
  received: string | null;
  allowed: string | null;
  fix: string | null;
}
/**
 * A prompt's text, and the tokens that the model reads.
 */
export interface Prompt {
  text: string;
  bos: boolean;
  /**
   * It was set by its token ids: its text would be read as others.
   */
  by_ids: boolean;
  tokens: Tok[];
  /**
   * The conversation that the model's template made it of.
   */
  chat: Chat | null;
}
/**
 * A token; its text is untrusted, and may hold newlines.
 */
export interface Tok {
  id: number;
  text: string;
}
export interface Chat {
  messages: Turn[];
  /**
   * The assistant's turn is open.
   */
  answer: boolean;
}
export interface Turn {
  role: string;
  content: string;
}
/**
 * The prompt that the live one is compared with and patched from. `outcome`: null until it has been run.
 */
export interface Companion {
  text: string;
  bos: boolean;
  /**
   * It was set by its token ids: its text would be read as others.
   */
  by_ids: boolean;
  tokens: Tok[];
  /**
   * The conversation that the model's template made it of.
   */
  chat: Chat | null;
  outcome: Outcome | null;
  /**
   * A position of the live prompt, and the one of this that stands for it.
   */
  pairs: [number, number][];
}
/**
 * What comes out at the last position of the companion's unedited run.
 */
export interface Outcome {
  /**
   * The state's.
   */
  metric: number | null;
  /**
   * The next token, the best 10.
   */
  top: TokenP[];
  /**
   * Why it could not be run.
   */
  error: string | null;
}
export interface TokenP {
  id: number;
  text: string;
  p: number | null;
}
/**
 * A second model of the same shapes, beside the session's own.
 */
export interface Other {
  name: string;
  phase: "loading" | "ready" | "failed";
  detail: string;
  progress: number | null;
  error: ErrorBody | null;
  hash: string | null;
  runs: OtherRuns;
}
/**
 * The second model's runs of the live prompt, by their ids.
 */
export interface OtherRuns {
  baseline: string | null;
  /**
   * With the same edits, where there are any and it takes them.
   */
  edited: string | null;
}
/**
 * The logit of `positive` less that of `negative`.
 */
export interface Metric {
  positive: Tok;
  negative: Tok;
  /**
   * False: guessed from the two likeliest next tokens.
   */
  chosen: boolean;
}
/**
 * An edit: what its kind takes, and how the session shows it.
 */
export interface ShownEdit {
  id: string;
  enabled: boolean;
  kind: string;
  label: string;
  glyph: string;
  /**
   * Where it acts, or what it does, beside its label.
   */
  beside: string;
  slider: Slider | null;
  at: Cell;
  /**
   * The metric with the whole stack less that without this edit; null until it is there: it follows the run.
   */
  delta: number | null;
  /**
   * Why it provably cannot change the next token.
   */
  inert: string | null;
  /**
   * Why this prompt or model lacks it: it is left out of the run.
   */
  error: string | null;
  [k: string]: unknown;
}
/**
 * The one number of an edit that a person turns, and between what.
 */
export interface Slider {
  name: string;
  value: number;
  min: number;
  max: number;
  step: number;
  unit: string;
}
/**
 * Where an edit acts, as far as it is one place.
 */
export interface Cell {
  layer: number | null;
  pos: number | null;
}
/**
 * Links that were opened in this session.
 */
export interface Links {
  /**
   * How many.
   */
  opened: number;
  /**
   * The latest step is one, which undo takes back whole: prompt, companion, answers and edits.
   */
  undo: boolean;
}
/**
 * One run of the history.
 */
export interface Run {
  id: string;
  /**
   * Lower than the state's: it answers an earlier question.
   */
  version: number;
  label: string;
  /**
   * The second model, of its runs; null of the session's own.
   */
  model: string | null;
  prompt: string;
  /**
   * Of the runs on screen; null of the others.
   */
  tokens: Tok[] | null;
  edits: number;
  /**
   * The state's, at its last position.
   */
  metric: number | null;
  /**
   * The metric as it was when it ran.
   */
  own: RunMetric | null;
  /**
   * The last edit of its stack.
   */
  newest: string | null;
  /**
   * The next token after the prompt, the best 10.
   */
  top: TokenP[];
  seconds: number;
}
/**
 * The logit of `positive` less that of `negative` at the last position, in logits.
 */
export interface RunMetric {
  positive: Tok;
  negative: Tok;
  value: number | null;
}
/**
 * The runs on screen, by their ids.
 */
export interface Current {
  /**
   * The prompt's unedited run, the second model's where there is one, or the one compared with.
   */
  a: string | null;
  /**
   * The edited run, or, where A is another and nothing is edited, the unedited one.
   */
  b: string | null;
}
/**
 * The locked cell; layer -1 is `embed`.
 */
export interface Selection {
  layer: number;
  pos: number;
}
export interface SavedPrompt {
  text: string;
  tokens: number;
  /**
   * Null until it has been run.
   */
  top: string | null;
  p: number | null;
}
/**
 * A stack of edits that was saved under a name.
 */
export interface NamedStack {
  name: string;
  /**
   * The one that it was made for.
   */
  model: string;
  /**
   * That is the model that is loaded.
   */
  here: boolean;
  /**
   * What each of its edits was called, in order.
   */
  labels: string[];
}
/**
 * A direction that was imported, or opened from the library.
 */
export interface SavedDirection {
  name: string;
  site: string;
  head: number | null;
  space: "raw" | "centred" | "lens";
  width: number;
  norm: number | null;
  /**
   * Its id in the library, where it was opened from there.
   */
  library: string | null;
}
/**
 * A probe of the session.
 */
export interface ProbeInfo {
  /**
   * What edits say: given once, whatever its item is called.
   */
  name: string;
  /**
   * Its item of the shelf; null while a job is at work on it.
   */
  item: string | null;
  job: string | null;
  /**
   * Grows as its map fills.
   */
  revision: number;
  /**
   * How far its map is; "none": it came without its prompts.
   */
  mapped: "none" | "part" | "whole";
  /**
   * A file without its text; null where it is not known.
   */
  data: TaskPrompts | FilePrompts | ItemPrompts | PartPrompts | null;
  site: string;
  position: string;
  label: string;
  classes: string[];
  accuracy: number | null;
  control: number | null;
  selectivity: number | null;
  /**
   * @minItems 2
   * @maxItems 2
   */
  interval: [number, number];
  C: number;
  train: number;
  held_out: number;
}
export interface TaskPrompts {
  kind: "task";
  task: string;
  n: number;
  seed: number;
  prefixes: boolean;
  partner?: string;
}
/**
 * `text`: in what a page sends, and of an item.
 */
export interface FilePrompts {
  kind: "file";
  name: string;
  text?: string;
}
export interface ItemPrompts {
  kind: "item";
  name: string;
}
/**
 * Prompts of another probe: those held out from its fit, those that it was fitted to, or all.
 */
export interface PartPrompts {
  kind: "probe";
  probe: string;
  part: "held_out" | "training" | "all";
}
/**
 * A method call under way, or that has ended. cost, left, seconds: in seconds.
 */
export interface Job {
  id: string;
  method: string;
  title: string;
  name: string;
  phase: "waiting" | "running" | "done" | "failed" | "cancelled";
  stage: string;
  /**
   * The share of its stage.
   */
  progress: number | null;
  /**
   * Of its stage, about.
   */
  left: number | null;
  cost: number | null;
  seconds: number | null;
  /**
   * Grows as partial items come.
   */
  revision: number;
  items: string[];
  note: string;
  /**
   * What it warned of, such as a C at the end of its grid.
   */
  warnings: string[];
  error: ErrorBody | null;
  /**
   * What it was asked for; null where that is long.
   */
  args: {
    [k: string]: unknown;
  } | null;
}
export interface Shelf {
  items: ItemInfo[];
  bytes: number;
  budget: number;
  can_restore: boolean;
}
/**
 * Something on the shelf.
 */
export interface ItemInfo {
  name: string;
  kind: string;
  title: string;
  method: string;
  /**
   * When, in seconds since 1970.
   */
  made: number;
  bytes: number;
  /**
   * Of a dictionary, what the model has it by; of a probe, what edits say.
   */
  id: string | null;
  warnings: string[];
  /**
   * Whether its job ended before it was whole.
   */
  cut: boolean;
  /**
   * How often it was changed since it was made, or taken up from its file.
   */
  changes: number;
  /**
   * What it was asked for; null where that is long.
   */
  args: {
    [k: string]: unknown;
  } | null;
}
/**
 * Somebody who has the page open, in so many windows; `name`: null for those who have not chosen one.
 */
export interface Present {
  name: string | null;
  windows: number;
}
export interface Added {
  id: string;
}
/**
 * The job that draws; `ready`: it is done already.
 */
export interface DrawingStarted {
  job: string;
  ready: boolean;
}
/**
 * The job that writes the pages; its id is what the file is asked by, with the ending `.zip`.
 */
export interface ExportStarted {
  job: string;
}
/**
 * The reference to a saved direction.
 */
export interface SavedName {
  kind: "saved";
  name: string;
}
/**
 * What an item is called on the shelf; of a file of several the first, then all.
 */
export interface Imported {
  name: string;
  names: string[];
}
/**
 * What is called how on the shelf.
 */
export interface KeptNames {
  names: string[];
}
/**
 * A test, and the job that draws its contexts.
 */
export interface BlindStarted {
  test: string;
  job: string;
}
/**
 * What somebody says of a direction.
 */
export interface Comment {
  id: string;
  direction: string;
  author: string;
  text: string;
  created: string;
}
/**
 * What `library_undo` takes back.
 */
export interface Undoable {
  event: number;
}
/**
 * `up` and `down` count votes, one a person; `mine` is the asker's own: 1, -1, or 0 for none.
 */
export interface Description {
  id: string;
  direction: string;
  author: string;
  text: string;
  up: number;
  down: number;
  mine: 1 | -1 | 0;
  blind: Blind | null;
  version: number;
  created: string;
  updated: string;
}
/**
 * What the blind tests of one description say, over `people` but its author; `author` and `mine`: their own scores.
 */
export interface Blind {
  people: number;
  mean: number | null;
  interval: [number, number] | null;
  author: number | null;
  mine: number | null;
}
/**
 * `score`: Spearman's rank correlation of the guesses with the values; `interval`: a bootstrap over items.
 */
export interface BlindResult {
  score: number;
  /**
   * @minItems 2
   * @maxItems 2
   */
  interval: [number, number];
  /**
   * @minItems 2
   * @maxItems 2
   */
  chance: [number, number];
  auc: number;
  n: number;
  values: number[];
  own: boolean;
  description: Description;
}
/**
 * `new`: false where the same numbers are here already.
 */
export interface Received {
  entry: Entry;
  new: boolean;
}
/**
 * A saved direction without its vectors. `votes` sums those for and against all its descriptions; `version` counts edits.
 */
export interface Entry {
  id: string;
  owner: string;
  name: string;
  model: string;
  model_hash: string;
  site: string;
  head: number | null;
  space: string;
  tensors: string;
  votes: number;
  comments: number;
  description: string | null;
  version: number;
  created: string;
  updated: string;
  here: boolean | null;
}
/**
 * Who one is, as it is known here.
 */
export interface Me {
  name: string | null;
}
export interface Undone {
  kind: "direction" | "description" | "comment";
  id: string;
}
export interface OpenedLink {
  left_out: LeftOut[];
  /**
   * What somebody had set, of which the link leaves nothing.
   */
  lost: ("prompt" | "companion" | "answers" | "edits")[];
}
/**
 * A part of a link that cannot be had here, and why.
 */
export interface LeftOut {
  part: "prompt" | "companion" | "answers" | "edits";
  /**
   * Of an edit, in the link.
   */
  index: number;
  error: ErrorBody;
}
/**
 * Lines of Python.
 */
export interface Code {
  code: string;
}
export interface RefusedEdits {
  refused: Refused[];
}
/**
 * An edit of those that were sent, and why it is not in the stack.
 */
export interface Refused {
  index: number;
  error: ErrorBody;
}
/**
 * A job; what it costs, in seconds, about; null where nobody has said.
 */
export interface Started {
  job: string;
  cost: number | null;
}
export interface Atlases {
  atlases: AtlasInfo[];
}
/**
 * An atlas of the shelf, by the name that it has there.
 */
export interface AtlasInfo {
  name: string;
  /**
   * What its features are called: the dictionary's name, neuron or dimension.
   */
  of: string;
  place: string;
  count: number;
  tokens: number;
  corpus: string;
  /**
   * The share that was never above zero.
   */
  dead: number;
  /**
   * Of its dictionary; empty for a site's own dimensions.
   */
  hash: string;
  /**
   * The id that its dictionary has here.
   */
  dictionary: string | null;
  /**
   * What the addresses of its features begin with: all but the number.
   */
  address: string;
  /**
   * Why no page can be made of it here, and what to do.
   */
  missing: string | null;
}
/**
 * What has come so far. `edits`: as they were asked for; `code`: the Python that gives the same.
 */
export interface ContinuationsFound {
  /**
   * The ids of the prompt that they continue.
   */
  prompt: number[];
  draws: SeedDraw[];
  job: string | null;
  item: string | null;
  revision: number;
  done: boolean;
  edits:
    | {
        [k: string]: unknown;
      }[]
    | string
    | null;
  code: string;
}
/**
 * What one seed gave, without the edits and with them; `edited`: null where there were none.
 */
export interface SeedDraw {
  seed: number;
  /**
   * How many tokens from the start are the same in both.
   */
  same: number | null;
  said: string;
  baseline: ChosenTokens;
  edited: ChosenTokens | null;
}
export interface ChosenTokens {
  tokens: ChosenToken[];
  /**
   * It goes on where the prompt's text ends.
   */
  text: string;
  /**
   * By its stop, and not for its length.
   */
  stopped: boolean;
}
/**
 * A token that one model chose; log-probabilities in nats, before temperature and cuts.
 */
export interface ChosenToken {
  id: number;
  text: string;
  log_prob: number | null;
  /**
   * The other model's, of the same token after the same tokens; null until it has read it.
   */
  other: number | null;
}
export interface Cost {
  /**
   * About; null where nobody has said.
   */
  seconds: number | null;
}
/**
 * A dictionary's components: of thousands the first.
 */
export interface DictionaryDetail {
  id: string;
  site: string;
  head: number | null;
  place: string;
  kind: string;
  space: "raw" | "centred" | "lens";
  standardised: boolean;
  fitted_on: string;
  tokens: number;
  components: Component[];
}
/**
 * One direction of a dictionary, and what it says.
 */
export interface Component {
  top: PoleToken[];
  bottom: PoleToken[];
  index: number;
  label: string;
  /**
   * The share explained.
   */
  variance: number | null;
  sd: number | null;
  cos_logit_diff: number | null;
}
export interface PoleToken {
  text: string;
  value: number;
}
/**
 * What is known of a direction so far; a part is null until it comes, or for the reason in `missing`.
 */
export interface Evidence {
  label: string;
  badges: Badges;
  tokens: Poles | null;
  examples: Examples | null;
  null: PlainView[] | null;
  stability: PlainView[] | null;
  dose: PlainView[] | null;
  removal: PlainView[] | null;
  missing: {
    [k: string]: string;
  };
  corpus: string | null;
  tokens_read: number | null;
  held_out: string | null;
  job: string | null;
  item: string | null;
  revision: number;
  done: boolean;
}
export interface Badges {
  correlates: Badge;
  used: Badge;
}
/**
 * A claim, whether it was shown, and the sentence and the numbers that say why or why not.
 */
export interface Badge {
  claim: string;
  /**
   * Null: not known yet.
   */
  shown: boolean | null;
  said: string;
  sentence: string;
  /**
   * What it is of, where more is to come and may change it; empty where it stands.
   */
  preliminary: string;
  numbers: {
    [k: string]: number | string | null;
  };
}
/**
 * The common tokens at either end, by cosine; none where its width is not the stream's.
 */
export interface Poles {
  top: PoleToken[];
  bottom: PoleToken[];
}
export interface Examples {
  top: Example[];
  bottom: Example[];
  intervals: Interval[];
  histogram: PlainView;
  /**
   * Where the colour is full.
   */
  limit: number;
}
/**
 * A token of a text, which is untrusted, with what stands around it; values are null where they are left out.
 */
export interface Example {
  row: number;
  pos: number;
  value: number;
  at: number;
  tokens: string[];
  values: (number | null)[];
}
export interface Interval {
  low: number;
  high: number;
  n: number;
  examples: Example[];
}
/**
 * The page of one feature, without what taking it out does.
 */
export interface FeatureDetail {
  atlas: string;
  index: number;
  address: string;
  label: string;
  place: string;
  site: string;
  head: number | null;
  neuron: boolean;
  /**
   * Whether it reads all heads' vectors end to end, and is no direction of one place.
   */
  flat: boolean;
  dictionary: string | null;
  name: string | null;
  proposed: ProposedName | null;
  unit: string;
  /**
   * How many tokens of which text were read.
   */
  read: string;
  density: number;
  highest: number | null;
  mean_active: number | null;
  histogram: PlainView;
  /**
   * Common tokens by the cosine of their unembedding with what it writes; none where it has none.
   */
  raised: PoleToken[];
  lowered: PoleToken[];
  nearest: FeatureLink[];
  partners: FeatureLink[];
  examples: PlainView;
  /**
   * Its page there, where its dictionary names its id.
   */
  neuronpedia: string | null;
  /**
   * Lines of Python that give this page; empty where there are none.
   */
  code: string;
}
/**
 * What a service called a feature.
 */
export interface ProposedName {
  name: string;
  /**
   * How well the name did on held-out contexts, or why it was not tested.
   */
  said: string;
  /**
   * Whether it did better than other features' names; null where that was not tested.
   */
  better: boolean | null;
}
/**
 * Another feature: `value` is a cosine, or P(it is active | this one is).
 */
export interface FeatureLink {
  index: number;
  label: string;
  value: number;
}
/**
 * Its examples with what taking it out at each does to the next token.
 */
export interface FeatureEffects {
  atlas: string;
  index: number;
  examples: PlainView;
}
/**
 * left: whether what was asked for was still being measured.
 */
export interface EffectsLeft {
  left: boolean;
}
/**
 * A feature on the tokens of a run.
 */
export interface FeatureOn {
  run: string;
  view: PlainView;
}
export interface FeatureList {
  name: string;
  /**
   * What its features are called: the dictionary's name, neuron or dimension.
   */
  of: string;
  place: string;
  count: number;
  tokens: number;
  corpus: string;
  /**
   * The share that was never above zero.
   */
  dead: number;
  /**
   * Of its dictionary; empty for a site's own dimensions.
   */
  hash: string;
  /**
   * The id that its dictionary has here.
   */
  dictionary: string | null;
  /**
   * What the addresses of its features begin with: all but the number.
   */
  address: string;
  /**
   * Why no page can be made of it here, and what to do.
   */
  missing: string | null;
  /**
   * How many there are in this list; of a search those that it found.
   */
  total: number;
  rows: FeatureRow[];
}
/**
 * One feature of a list. value: what a search went by. token: the text at its highest token.
 */
export interface FeatureRow {
  index: number;
  label: string;
  address: string;
  highest: number | null;
  density: number;
  token: string | null;
  value: number | null;
  /**
   * What it is called here: as a saved direction, or by a service whose name held.
   */
  name: string | null;
}
export interface ExportCost {
  pages: number;
  /**
   * About, by one page that was made.
   */
  seconds: number;
  /**
   * Of the file, about.
   */
  bytes: number;
}
export interface FeaturesOn {
  run: string;
  pos: number;
  atlases: ActiveIn[];
}
/**
 * refused: why an atlas cannot be read here.
 */
export interface ActiveIn {
  atlas: string;
  at: ActiveFeature[];
  overall: ActiveFeature[];
  refused: string | null;
}
/**
 * pos: where its value is the highest. share: of the highest value that the atlas knows.
 */
export interface ActiveFeature {
  index: number;
  label: string;
  pos: number;
  value: number;
  share: number | null;
}
/**
 * All of the glossary. groups: their titles by id.
 */
export interface Terms {
  groups: {
    [k: string]: string;
  };
  entries: TermForm[];
}
/**
 * An entry of the glossary, plain.
 */
export interface TermForm {
  term: string;
  group: string;
  what: string;
  trap: string;
  source: string;
  also: string[];
  formula: string;
  see: string[];
  show: string[];
  names: string[];
}
/**
 * Inner products of read vectors; `of` says whose: a dictionary's id, or `saved:NAME`, and the index there.
 */
export interface Gram {
  of: [string, number][];
  gram: number[][];
}
/**
 * A graph of the shelf, pruned as asked, laid out: `nodes` and `edges` are in the order of the picture's.
 */
export interface GraphShown {
  item: string;
  prompt: string[];
  /**
   * The prompt's tokens, where they are known.
   */
  ids: number[] | null;
  /**
   * Where features are taken out: all but the first token and attention sinks.
   */
  positions: number[] | null;
  view: PlainView;
  nodes: GraphNode[];
  edges: GraphEdge[];
  dictionaries: GraphDictionary[];
  /**
   * The next tokens on which effects were measured.
   */
  tokens: string[];
  /**
   * Their log-probabilities in the whole run.
   */
  base: (number | null)[];
  /**
   * How its edges were found, in words.
   */
  how: string;
  estimated: boolean;
  /**
   * What a feature is multiplied by where it is taken out.
   */
  scale: number;
  /**
   * How many nodes the whole graph has.
   */
  of_nodes: number;
  of_edges: number;
  /**
   * Nodes and edges that the thresholds leave, before the picture's own limit.
   */
  left: number[];
  /**
   * The least and the largest |weight| of its edges.
   */
  range: number[];
  /**
   * Whether effects on the next token were measured: then nodes have an influence.
   */
  effects: boolean;
  groups: GraphGroup[];
  partial: string;
  /**
   * A name or a group was given that can be taken back.
   */
  can_undo: boolean;
  code: string;
}
/**
 * A node as it is drawn: a feature, what a dictionary leaves out, several taken as one, or a next token.
 */
export interface GraphNode {
  /**
   * Its own, or what the picture calls a group or a token.
   */
  id: string;
  label: string;
  /**
   * A person gave it that label.
   */
  named: boolean;
  /**
   * The name of the group that it is; empty: it is one node.
   */
  group: string;
  /**
   * The ids of the graph's nodes that it stands for; none of a token.
   */
  members: string[];
  /**
   * The graph's name for it; empty of a group over several, and of a token.
   */
  dictionary: string;
  /**
   * Which feature; -1: what the dictionary leaves out.
   */
  index: number | null;
  pos: number | null;
  activation: number | null;
  /**
   * What it adds to the log-probability of the graph's first token, in nats.
   */
  effect: number | null;
}
/**
 * exact: of an estimate that was measured too.
 */
export interface GraphEdge {
  /**
   * The number of a node in `nodes`.
   */
  source: number;
  target: number;
  weight: number;
  exact: number | null;
}
/**
 * A dictionary of a graph. here: the id that the session has it by; null of the model's own heads and neurons.
 */
export interface GraphDictionary {
  id: string;
  read_site: string;
  write_site: string;
  features: number;
  active: number;
  unexplained: number | null;
  here: string | null;
  /**
   * Why it is not at hand, and what to do.
   */
  missing: string | null;
}
export interface GraphGroup {
  name: string;
  nodes: string[];
}
/**
 * What taking the source out did, just now: to the target, and to the next token.
 */
export interface GraphEdgeRun {
  item: string;
  source: string;
  target: string;
  /**
   * As the graph has it; of several, their sum.
   */
  weight: number;
  /**
   * The target's activation less what it is without; null of a token, whose change is below.
   */
  measured: number | null;
  /**
   * The target's activation in the whole run.
   */
  base: number | null;
  without: number | null;
  /**
   * The likeliest of either run, the likeliest first.
   */
  tokens: MovedToken[];
  /**
   * KL of the next token's distribution from the one without, in nats.
   */
  kl: number;
}
/**
 * A next token: how likely it is, and how likely without.
 */
export interface MovedToken {
  id: number;
  text: string;
  base: number;
  without: number;
}
/**
 * Nodes of a graph by what is written in their id, their label or their token, in the order of the graph.
 */
export interface GraphFound {
  item: string;
  /**
   * How many there are.
   */
  total: number;
  nodes: GraphNode[];
}
export interface GraphLeft {
  /**
   * Whether something was under way for the one who left.
   */
  left: boolean;
}
/**
 * One node: where it is active, what it writes, what it is joined with.
 */
export interface GraphNodeDetail {
  /**
   * Of its page, where an atlas of its dictionary is on the shelf.
   */
  address: string | null;
  atlas: string | null;
  /**
   * Its highest in that atlas.
   */
  examples: PlainView | null;
  /**
   * Tokens that what it writes is most alike, by cosine.
   */
  raised: PoleToken[];
  lowered: PoleToken[];
  item: string;
  id: string;
  label: string;
  /**
   * What its dictionary calls it.
   */
  own: string;
  place: string;
  index: number;
  pos: number | null;
  activation: number;
  group: string;
  /**
   * What it adds to the log-probability of each of the graph's tokens, in nats.
   */
  effects: PoleToken[];
  /**
   * What raises it, and lowers it: the strongest edges into it.
   */
  sources: Neighbour[];
  targets: Neighbour[];
  /**
   * Why no more can be said of it here.
   */
  missing: string | null;
}
export interface Neighbour {
  id: string;
  label: string;
  weight: number;
}
export interface GraphProposals {
  item: string;
  rule: string;
  groups: ProposedGroup[];
  /**
   * Dictionaries that are not at hand, of whose features nothing is proposed.
   */
  missing: string[];
}
export interface ProposedGroup {
  name: string;
  nodes: string[];
  likeness: number;
}
/**
 * A number as a sum. own: the number, read without the sum. rest: of the `others` terms that are not listed.
 */
export interface Sum {
  /**
   * What the number is, in words.
   */
  of: string;
  /**
   * The largest, in their order.
   */
  terms: Term[];
  others: number;
  rest: number;
  total: number;
  own: number;
  unit: "logits" | "score";
  note: string;
}
export interface Term {
  name: string;
  value: number;
}
/**
 * An item of the shelf; of one that is no one table, `table` is its parts in words.
 */
export interface ItemDetail {
  name: string;
  kind: string;
  title: string;
  method: string;
  /**
   * When, in seconds since 1970.
   */
  made: number;
  bytes: number;
  /**
   * Of a dictionary, what the model has it by; of a probe, what edits say.
   */
  id: string | null;
  warnings: string[];
  /**
   * Whether its job ended before it was whole.
   */
  cut: boolean;
  /**
   * How often it was changed since it was made, or taken up from its file.
   */
  changes: number;
  /**
   * What it was asked for, however long.
   */
  args: {
    [k: string]: unknown;
  };
  provenance: {
    [k: string]: unknown;
  };
  code: string;
  views: PlainView[];
  table: Cells;
}
/**
 * The columns of a table and its first rows; `n`: how many rows it has.
 */
export interface Cells {
  columns: string[];
  rows: (string | number | boolean | null)[][];
  n: number;
}
/**
 * What a job has made so far; `table`: null before there is anything.
 */
export interface JobDetail {
  job: string;
  revision: number;
  done: boolean;
  views: PlainView[];
  table: Cells | null;
}
/**
 * The logit lens at one cell.
 */
export interface LensReading {
  top: TokenP[];
}
/**
 * The logit lens at one position, row by row: `embed`, then what each layer leaves.
 */
export interface RowsLens {
  top: TokenP[];
}
/**
 * Saved directions that are one and the same, best described first; `descriptions` counts what is said of all of them.
 */
export interface Alike {
  entries: Entry[];
  descriptions: number;
}
/**
 * Contexts to guess at, whose values the server keeps to itself; `scale`: what -1, 0 and 1 stand for.
 */
export interface BlindTest {
  test: string;
  description: string;
  direction: string;
  text: string;
  corpus: string;
  items: BlindItem[];
  /**
   * @minItems 3
   * @maxItems 3
   */
  scale: [string, string, string];
}
/**
 * A context: what does the direction say at `tokens[pos]`?
 */
export interface BlindItem {
  tokens: string[];
  pos: number;
}
/**
 * What is saved of one dictionary, the best described first.
 */
export interface SavedFeatures {
  features: SavedFeature[];
}
/**
 * A saved direction that is one of a dictionary's, by its number there.
 */
export interface SavedFeature {
  index: number;
  entry: Entry;
}
/**
 * An entry with everything said of it, descriptions best first.
 */
export interface Whole {
  entry: Entry;
  provenance: {
    [k: string]: unknown;
  };
  descriptions: Description[];
  comments: Comment[];
}
/**
 * Entries in order; `after` asks for those that follow (None: there are no more).
 */
export interface Page {
  entries: Entry[];
  after: string | null;
}
/**
 * What one person has done here; `votes`: those for less those against what they wrote, by others.
 */
export interface Somebody {
  name: string;
  since: string;
  directions: number;
  descriptions: number;
  votes: number;
}
/**
 * A link before it is opened.
 */
export interface ReadLink {
  left_out: LeftOut[];
  /**
   * What somebody had set, of which the link leaves nothing.
   */
  lost: ("prompt" | "companion" | "answers" | "edits")[];
  /**
   * In words, those that can be had here.
   */
  edits: string[];
}
export interface Manifest {
  edits: EditForm[];
  methods: MethodForm[];
  tasks: TaskForm[];
  /**
   * Plugins that could not be imported, and why.
   */
  broken: {
    [k: string]: string;
  };
  /**
   * The glossary's word for each thing that shows terms, as `method:pca`.
   */
  words: {
    [k: string]: string;
  };
}
export interface EditForm {
  id: string;
  title: string;
  about: string;
  type: "object";
  properties: {
    [k: string]: FormProperty;
  };
  required: string[];
  glyph: string;
}
/**
 * One argument as JSON Schema, with the `kind` of its field and that kind's own hints.
 */
export interface FormProperty {
  kind: string;
  /**
   * Its name in Python.
   */
  argument: string;
  title: string;
  [k: string]: unknown;
}
export interface MethodForm {
  id: string;
  title: string;
  about: string;
  type: "object";
  properties: {
    [k: string]: FormProperty;
  };
  required: string[];
  group: string;
  /**
   * The kind of item that it makes, or makes several of; empty where it says none.
   */
  makes: string;
  function: string;
}
/**
 * label, position: those of its own that a form begins with. prefixes: whether sentences may come before each prompt.
 */
export interface TaskForm {
  id: string;
  title: string;
  about: string;
  label: string;
  position: string;
  prefixes: boolean;
  partners: string[];
}
/**
 * stopped: how many were waiting for a map.
 */
export interface Stopped {
  stopped: number;
}
/**
 * The pictures of a probe.
 */
export interface ProbeDetail {
  name: string;
  revision: number;
  /**
   * To either side, in nats.
   */
  reach: number;
  map: PlainView;
  map_at: MapAt;
  cloud: PlainView;
  margins: Margin[];
  examples: ProbeExample[];
  /**
   * Which of its prompts the fit has not seen, in the order of what is measured over them.
   */
  held_out: number[];
  /**
   * Which prompt each point of the cloud is.
   */
  cloud_rows: number[];
}
/**
 * The columns and the rows of a probe's map.
 */
export interface MapAt {
  sites: string[];
  positions: string[];
}
export interface Margin {
  of: string;
  view: PlainView;
}
export interface ProbeExample {
  text: string;
  label: string;
  answers: [string, string] | null;
}
/**
 * What a probe reads at one token of a run, and where each edit would put it.
 */
export interface ProbeReading {
  log_prob: number[];
  xy: number[];
  moves: ProbeMoves;
  /**
   * Between two classes.
   */
  steps: ProbeSteps | null;
  run: string;
  pos: number;
  /**
   * The prompt is one of the probe's own data; `label` is then its label.
   */
  own: boolean;
  label: string | null;
  /**
   * Where the probe's position stands in this prompt, by its data or by the form of its task's prompts.
   */
  place: number | null;
}
/**
 * By class, or "neutral".
 */
export interface ProbeMoves {
  mean_difference: {
    [k: string]: ProbeMove;
  };
  project_out: {
    [k: string]: ProbeMove;
  };
  constant_dose: {
    [k: string]: ProbeMove;
  };
}
/**
 * Scores and cloud coordinates after an edit, `at` + dose * `slope`.
 */
export interface ProbeMove {
  at: number[];
  slope: number[];
  xy: number[];
  xy_slope: number[];
}
/**
 * By covariance, where anything varies along the probe.
 */
export interface ProbeSteps {
  total?: ProbeStep;
  within?: ProbeStep;
}
export interface ProbeStep {
  length: number;
  xy: number[];
}
export interface PromptsAnswer {
  id: string;
  prompts: ShownPrompt[];
}
/**
 * One prompt of a page; `next`: the three likeliest tokens after each of its own.
 */
export interface ShownPrompt {
  text: string;
  own: boolean;
  tokens: Tok[];
  next: Likely[][];
}
export interface Likely {
  text: string;
  p: number;
}
/**
 * What can be chosen in some data.
 */
export interface ProbeChoices {
  name: string;
  n: number;
  labels: LabelChoice[];
  positions: PositionChoice[];
  texts: string[];
}
/**
 * A label: how many classes it has, and how many prompts are of the first of them.
 */
export interface LabelChoice {
  name: string;
  classes: number;
  most: {
    [k: string]: number;
  };
}
/**
 * A named position, and how many prompts lack it.
 */
export interface PositionChoice {
  name: string;
  lacking: number;
}
/**
 * What one direction says; `about` is a sentence or two.
 */
export interface DirectionReading {
  top: PoleToken[];
  bottom: PoleToken[];
  label: string;
  about: string;
  norm: number | null;
  variance: number | null;
  sd: number | null;
  cos_logit_diff: number | null;
}
/**
 * The edits as they are sent, those that are switched off too.
 */
export interface StackEdits {
  edits: unknown[];
}
/**
 * What `edits.to_json` writes of those that are switched on; `edits.from_json` reads it.
 */
export interface StackJson {
  json: string;
}
export interface StrongestCoordinates {
  top: Coordinate[];
}
export interface Coordinate {
  index: number;
  label: string;
  value: number;
}
/**
 * The prompt's tokens; `aligned`: runs of the first reading and of the second that spell the same, [from, to, from, to]; null
 */
export interface TokenTableAnswer {
  reads: TextRead[];
  aligned: [number, number, number, number][] | null;
}
export interface TextRead {
  model: string;
  text: string;
  tokens: TokenInfo[];
}
/**
 * One token: `bytes` is hex; `start`, `end` are its characters in the text; `word` the number of its word.
 */
export interface TokenInfo {
  id: number;
  text: string;
  bytes: string;
  /**
   * text, bytes (no whole characters), special or unknown.
   */
  sort: string;
  start: number;
  end: number;
  word: number | null;
  variants: Variant[];
}
/**
 * A word with or without its space and its capital, and how many tokens it takes.
 */
export interface Variant {
  text: string;
  tokens: number;
}
/**
 * The tokens that a text is in the middle of others: one where it names one.
 */
export interface Spelling {
  tokens: Tok[];
}

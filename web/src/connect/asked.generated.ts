/** Made by `make view-types` from the intents and queries: change it there. */

/**
 * This interface was referenced by `Asked`'s JSON-Schema
 * via the `definition` "DirectionRef".
 */
export type DirectionRef = PcaRef | LogitDiffRef | TokenRef | SavedRef | MixRef;
/**
 * This interface was referenced by `Asked`'s JSON-Schema
 * via the `definition` "TextRef".
 */
export type TextRef = BuiltInText | TypedText | HubText;

/**
 * What may be asked of a session.
 */
export interface Asked {
  intents: {
    add_edit: {
      edit: unknown;
    };
    cancel: {
      job: string;
    };
    cancel_run: {};
    compare_companion: {};
    compare_run: {
      run?: string | null;
    };
    delete_item: {
      name: string;
    };
    delete_stack: {
      name: string;
    };
    /**
     * Prompts for a page, by a job; what is drawn stays with it, and is on no shelf.
     */
    draw_prompts: {
      text: BuiltInText | TypedText | HubText;
      n: number;
      seed?: number;
      length?: number;
    };
    /**
     * Every page of an atlas as one file of HTML.
     */
    export_features: {
      atlas: string;
    };
    forget_dictionary: {
      id: string;
    };
    forget_prompt: {
      text: string;
    };
    /**
     * Nodes of a graph taken as one.
     */
    group_nodes: {
      item: string;
      nodes: string[];
      name: string;
    };
    /**
     * data: a safetensors file.
     */
    import_direction: {
      data: Blob;
    };
    import_item: {
      data: Blob;
      name?: string;
    };
    /**
     * text: as `edits.to_json` writes it.
     */
    import_stack: {
      text: string;
    };
    /**
     * What a job has made and left with itself, onto the shelf. name: the method's own title unless said.
     */
    keep_made: {
      job: string;
      name?: string;
    };
    /**
     * Instead of one that is being loaded, or could not be.
     */
    keep_model: {};
    library_blind: {
      id: string;
    };
    library_comment: {
      id: string;
      text: string;
    };
    library_delete: {
      id: string;
    };
    library_delete_comment: {
      id: string;
    };
    library_delete_description: {
      id: string;
    };
    library_describe: {
      id: string;
      text: string;
    };
    library_edit_description: {
      id: string;
      text: string;
      seen?: number | null;
    };
    library_guess: {
      test: string;
      guesses: number[];
    };
    /**
     * data: a safetensors file.
     */
    library_import: {
      data: Blob;
      name?: string | null;
    };
    library_open: {
      id: string;
    };
    library_rename: {
      id: string;
      name: string;
      seen?: number | null;
    };
    library_save: {
      direction: unknown;
      name: string;
      description?: string | null;
    };
    library_sign_in: {
      name: string;
    };
    library_sign_out: {};
    library_undo: {
      event?: number | null;
    };
    library_vote: {
      id: string;
      value: -1 | 0 | 1;
    };
    load_model: {
      name: string;
    };
    /**
     * name: empty gives the node its own name again.
     */
    name_node: {
      item: string;
      node: string;
      name: string;
    };
    /**
     * hash: of the model that the link was made with, on which alone its token ids and its conversation count.
     */
    open_link: {
      hash: string;
      prompt: string;
      bos?: boolean | null;
      ids?: number[] | null;
      chat?: SetChat | null;
      companion?: SetCompanion | null;
      metric?: SetMetric | null;
      edits?: unknown[];
    };
    /**
     * What the page shows. direction: what it reads along, in `unit` (the direction's own unless said), of run A (`base`), run B
     * (`edit`) or their difference (`delta`); rows: the places, as `coef` names them, all unless said. prompts: the page of
     * prompts that is shown in place of the runs. lens: the logit lens, in place of what is read along a direction. raw: what a
     * page that says no unit has where no mean is subtracted.
     */
    python: {
      direction?: unknown;
      raw?: boolean;
      unit?:
        ("centred" | "standardised" | "raw" | "cos" | "folded" | "folded-centred" | "logit" | "logit-centred" | "activation" | "mixed" | "mixed-raw") | null;
      mode?: ("base" | "edit" | "delta") | null;
      rows?: string[] | null;
      prompts?: PagePrompts | null;
      lens?: LensPicture | null;
    };
    redo: {};
    rename_group: {
      item: string;
      name: string;
      to: string;
    };
    rename_item: {
      name: string;
      to: string;
    };
    rename_stack: {
      name: string;
      to: string;
    };
    restore_item: {};
    restore_run: {
      run: string;
    };
    save_prompt: {
      text: string;
    };
    /**
     * edits: instead of those that are live. replace: one of that name makes way.
     */
    save_stack: {
      name: string;
      edits?: unknown[] | null;
      replace?: boolean;
    };
    select: {
      layer: number;
      pos: number;
    };
    /**
     * answer: opens the assistant's turn.
     */
    set_chat: {
      messages: Turn[];
      answer?: boolean;
    };
    /**
     * The prompt to compare with and to patch from; None: none. bos: as the live prompt has it, unless said. ids: its tokens,
     * where its text would be read as others.
     */
    set_companion: {
      text?: string | null;
      bos?: boolean | null;
      ids?: number[] | null;
    };
    set_edits: {
      edits: unknown[];
      skip_refused?: boolean;
    };
    set_metric: {
      positive?: string | null;
      negative?: string | null;
    };
    /**
     * The model to lay beside this one: a catalog name, a hub id, a folder or BASE+ADAPTER; None: none.
     */
    set_other: {
      model?: string | null;
    };
    set_prompt: {
      text: string;
      bos?: boolean | null;
    };
    /**
     * The prompt by its token ids, kept as they are.
     */
    set_tokens: {
      ids: number[];
    };
    /**
     * A method, by its id, and its arguments as its schema has them. name: of what it makes. keep: false leaves that with its
     * job, until `keep_made`.
     */
    start: {
      method: string;
      args?: unknown;
      name?: string;
      keep?: boolean;
    };
    swap_companion: {};
    undo: {};
    /**
     * Take the latest name or group of a graph back.
     */
    undo_graph: {
      item: string;
    };
    ungroup_nodes: {
      item: string;
      name: string;
    };
  };
  queries: {
    atlases: {};
    /**
     * heads: as [layer, head]. over: what several are together. weighted: by the length of what each pair writes.
     */
    attention: {
      run: string;
      heads: number[][];
      over?: "mean" | "max";
      weighted?: boolean;
    };
    coef: {
      run: string;
      dictionary: string;
      indices?: number[] | null;
    };
    continuations: {
      job?: string | null;
      item?: string | null;
    };
    cost: {
      method: string;
      args?: unknown;
    };
    /**
     * indices: of these alone, in their order.
     */
    dictionary: {
      id: string;
      indices?: number[] | null;
    };
    evidence: {
      job?: string | null;
      item?: string | null;
    };
    feature: {
      atlas: string;
      index: number;
    };
    /**
     * asker: a name of the page's own, of whose questions only the latest is answered.
     */
    feature_effects: {
      atlas: string;
      index: number;
      asker?: string;
    };
    feature_effects_left: {
      asker?: string;
    };
    feature_on: {
      atlas: string;
      index: number;
      run: string;
    };
    /**
     * Features in order; or those that a token, a text or a feature finds, the best first.
     */
    features: {
      atlas: string;
      order?: "highest" | "density" | "index";
      descending?: boolean;
      first?: number;
      count?: number;
      token?: string | null;
      text?: string | null;
      like?: number | null;
    };
    features_cost: {
      atlas: string;
    };
    /**
     * pos: negative from the end. k: how many of each atlas.
     */
    features_on: {
      run: string;
      atlases: string[];
      pos?: number;
      k?: number;
    };
    glossary: {};
    gram: {
      of: string[];
    };
    /**
     * A graph of the shelf, with what its thresholds leave of it. nodes: at most so many are drawn.
     */
    graph: {
      item: string;
      least?: number | null;
      per_level?: number | null;
      top?: number | null;
      influence?: number | null;
      path?: number | null;
      nodes?: number;
    };
    /**
     * source, target: nodes, or groups, by their ids in the graph's picture.
     */
    graph_edge: {
      asker?: string;
      item: string;
      source: string;
      target: string;
    };
    /**
     * text: in a node's id, its label or its token.
     */
    graph_find: {
      item: string;
      text: string;
      count?: number;
    };
    graph_left: {
      asker?: string;
    };
    graph_node: {
      item: string;
      node: string;
    };
    graph_proposals: {
      item: string;
      least?: number;
    };
    head_sum: {
      run: string;
      layer: number;
      head: number;
      positive: number | string;
      negative?: number | string | null;
      pos?: number;
    };
    item: {
      name: string;
    };
    job: {
      job: string;
    };
    lens: {
      run: string;
      layer: number;
      pos: number;
    };
    /**
     * first, count: the positions. token: one to follow, else what the run itself says at each position. through: a tuned lens of
     * the shelf, by name.
     */
    lens_grid: {
      run: string;
      first?: number;
      count?: number;
      token?: string | null;
      through?: string | null;
    };
    lens_rows: {
      run: string;
      pos?: number;
    };
    library_alike: {
      direction: unknown;
    };
    library_blind_test: {
      test: string;
    };
    /**
     * dictionary: a hash.
     */
    library_features: {
      dictionary: string;
    };
    library_me: {};
    library_read: {
      id: string;
    };
    /**
     * here: of the loaded model alone.
     */
    library_search: {
      text?: string | null;
      user?: string | null;
      model?: string | null;
      site?: string | null;
      min_votes?: number | null;
      sort?: "newest" | "votes";
      limit?: number;
      after?: string | null;
      here?: boolean;
    };
    library_somebody: {
      name: string;
    };
    /**
     * hash: of the model that the link was made with, on which alone its token ids and its conversation count.
     */
    link: {
      hash: string;
      prompt: string;
      bos?: boolean | null;
      ids?: number[] | null;
      chat?: SetChat | null;
      companion?: SetCompanion | null;
      metric?: SetMetric | null;
      edits?: unknown[];
    };
    /**
     * positive, negative: tokens, by id or as text; negative: none of a single logit. row: 0 the embedding, then what each layer
     * leaves; none at the run's end.
     */
    logit_sum: {
      run: string;
      positive: number | string;
      negative?: number | string | null;
      row?: number | null;
      pos?: number;
    };
    logits: {
      run: string;
      positive: number;
      negative: number;
    };
    manifest: {};
    /**
     * pos: where the logits are read; negative from the end.
     */
    map: {
      run: string;
      positive: number;
      negative: number;
      pos?: number;
    };
    /**
     * neurons: whether the strongest are wanted too, which is work of its own at each position.
     */
    map_layer: {
      run: string;
      positive: number;
      negative: number;
      pos?: number;
      layer: number;
      neurons?: boolean;
    };
    map_stop: {};
    probe: {
      name: string;
    };
    /**
     * row: the prompt's number in the probe's data.
     */
    probe_prompt: {
      name: string;
      row: number;
    };
    probe_reading: {
      name: string;
      run: string;
      pos: number;
      named?: boolean;
    };
    /**
     * One's own prompts, then those that a job (`draw_prompts`) has drawn.
     */
    prompts: {
      own?: string[];
      drawn?: string | null;
    };
    prompts_coef: {
      page: string;
      row: number;
      dictionary: string;
      indices?: number[] | null;
    };
    prompts_logits: {
      page: string;
      row: number;
      positive: number;
      negative: number;
    };
    python: {
      method: string;
      args?: unknown;
    };
    read_data: {
      data: TaskData | FileData | NamedPrompts | ProbePrompts;
    };
    read_direction: {
      direction: unknown;
    };
    score_sum: {
      run: string;
      layer: number;
      head: number;
      query: number;
      key: number;
    };
    /**
     * name: None is the live one.
     */
    stack: {
      name?: string | null;
    };
    /**
     * name: None is the live one.
     */
    stack_json: {
      name?: string | null;
    };
    /**
     * next: "last" does not wait for the next tokens of other positions, which of a long prompt follow its picture.
     */
    stream: {
      run: string;
      next?: "all" | "last";
    };
    strongest: {
      run: string;
      dictionary: string;
      row: number;
      pos: number;
      k?: number;
    };
    /**
     * other: a model on this machine, that reads the text too. companion: of the companion's tokens instead.
     */
    token_table: {
      other?: string | null;
      companion?: boolean;
    };
    tokens: {
      text: string;
    };
  };
}
/**
 * This interface was referenced by `Asked`'s JSON-Schema
 * via the `definition` "BuiltInText".
 */
export interface BuiltInText {
  kind: "builtin";
  name: string;
}
/**
 * A name and what the file of that name would hold: `.jsonl` has a `text` on each line, others have paragraphs.
 *
 * This interface was referenced by `Asked`'s JSON-Schema
 * via the `definition` "TypedText".
 */
export interface TypedText {
  kind: "typed";
  name: string;
  text: string;
}
/**
 * A data set: `org/name`, perhaps with a folder and a revision as in `hub:org/name/folder@revision`.
 *
 * This interface was referenced by `Asked`'s JSON-Schema
 * via the `definition` "HubText".
 */
export interface HubText {
  kind: "hub";
  name: string;
  field?: string;
}
/**
 * answer: opens the assistant's turn.
 *
 * This interface was referenced by `Asked`'s JSON-Schema
 * via the `definition` "SetChat".
 */
export interface SetChat {
  messages: Turn[];
  answer?: boolean;
}
/**
 * This interface was referenced by `Asked`'s JSON-Schema
 * via the `definition` "Turn".
 */
export interface Turn {
  role: string;
  content: string;
}
/**
 * The prompt to compare with and to patch from; None: none. bos: as the live prompt has it, unless said. ids: its tokens,
 * where its text would be read as others.
 *
 * This interface was referenced by `Asked`'s JSON-Schema
 * via the `definition` "SetCompanion".
 */
export interface SetCompanion {
  text?: string | null;
  bos?: boolean | null;
  ids?: number[] | null;
}
/**
 * This interface was referenced by `Asked`'s JSON-Schema
 * via the `definition` "SetMetric".
 */
export interface SetMetric {
  positive?: string | null;
  negative?: string | null;
}
/**
 * A page of prompts: one's own texts, then those drawn.
 *
 * This interface was referenced by `Asked`'s JSON-Schema
 * via the `definition` "PagePrompts".
 */
export interface PagePrompts {
  own?: string[];
  drawn?: DrawnPrompts | null;
}
/**
 * n windows of a text, `length` tokens each.
 *
 * This interface was referenced by `Asked`'s JSON-Schema
 * via the `definition` "DrawnPrompts".
 */
export interface DrawnPrompts {
  kind: "drawn";
  text: BuiltInText | TypedText | HubText;
  n?: number;
  length?: number;
  seed?: number;
}
/**
 * The logit lens. show: the likeliest token's probability, or of the followed one its probability or rank; KL; entropy.
 *
 * through: a tuned lens of the shelf, by name.
 *
 * This interface was referenced by `Asked`'s JSON-Schema
 * via the `definition` "LensPicture".
 */
export interface LensPicture {
  show?: "top" | "chance" | "rank" | "kl" | "entropy";
  token?: string | null;
  through?: string | null;
}
/**
 * Prompts of `residscope.tasks`, by name. partner: one of the kinds of partners that the task offers.
 *
 * This interface was referenced by `Asked`'s JSON-Schema
 * via the `definition` "TaskData".
 */
export interface TaskData {
  kind: "task";
  task: string;
  n?: number;
  seed?: number;
  prefixes?: boolean;
  partner?: string | null;
}
/**
 * A table of labelled prompts: the file's name and its text.
 *
 * This interface was referenced by `Asked`'s JSON-Schema
 * via the `definition` "FileData".
 */
export interface FileData {
  kind: "file";
  name: string;
  text: string;
}
/**
 * A set of prompts of the shelf.
 *
 * This interface was referenced by `Asked`'s JSON-Schema
 * via the `definition` "NamedPrompts".
 */
export interface NamedPrompts {
  kind: "item";
  name: string;
}
/**
 * The prompts of a fitted probe: those that its fit has not seen, those that it was fitted to, or all.
 *
 * This interface was referenced by `Asked`'s JSON-Schema
 * via the `definition` "ProbePrompts".
 */
export interface ProbePrompts {
  kind: "probe";
  probe: string;
  part?: "held_out" | "training" | "all";
}
/**
 * This interface was referenced by `Asked`'s JSON-Schema
 * via the `definition` "DictionaryTerm".
 */
export interface DictionaryTerm {
  dictionary: string;
  index: number;
  weight: number;
}
/**
 * This interface was referenced by `Asked`'s JSON-Schema
 * via the `definition` "LogitDiffRef".
 */
export interface LogitDiffRef {
  kind: "logit_diff";
  positive: string;
  negative: string;
}
/**
 * A weighted sum of directions, at unit length; at the first one's site unless another is given.
 *
 * This interface was referenced by `Asked`'s JSON-Schema
 * via the `definition` "MixRef".
 */
export interface MixRef {
  kind: "mix";
  terms: (DictionaryTerm | SavedTerm)[];
  site?: string | null;
}
/**
 * This interface was referenced by `Asked`'s JSON-Schema
 * via the `definition` "SavedTerm".
 */
export interface SavedTerm {
  saved: string;
  weight: number;
}
/**
 * Components of the model's own PCA at a site, by weight.
 *
 * This interface was referenced by `Asked`'s JSON-Schema
 * via the `definition` "PcaRef".
 */
export interface PcaRef {
  kind: "pca";
  site: string;
  weights: {
    [k: string]: number;
  };
}
/**
 * This interface was referenced by `Asked`'s JSON-Schema
 * via the `definition` "SavedRef".
 */
export interface SavedRef {
  kind: "saved";
  name: string;
}
/**
 * This interface was referenced by `Asked`'s JSON-Schema
 * via the `definition` "TokenRef".
 */
export interface TokenRef {
  kind: "token";
  token: string;
}

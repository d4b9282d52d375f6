/** What the words on the page mean, each in a sentence or two. */

export const TERMS = {
  "residual stream": "The vector that a decoder keeps for every token. Each layer reads it and adds to it; the prediction of the next token is read from it after the last layer. The grid's rows are this vector after the embedding (emb) and after each layer.",
  token: "A piece of the prompt as the model reads it: a word, a part of one, a sign. A dot stands for the space before it.",
  direction: "A vector of the stream's width. Reading along it gives one number a token and layer: x·d, how far the stream points that way.",
  component: "One direction of a dictionary, counted from zero: PC 7 is the eighth principal component.",
  dictionary: "A set of directions fitted at one place: principal components (PCA), singular vectors (SVD), features of a sparse autoencoder, or a difference of means.",
  "read at": "The row of the stream whose values fill the tokens of the prompt. A direction belongs to one place, and can be read in any row.",
  centred: "The data-set mean of the row is taken off before reading, so that zero is what any text has there.",
  raw: "x·d as it is, with nothing taken off. Rows then differ by their mean more than by the prompt.",
  cosine: "x·d over the lengths of both: how much of the vector points that way, from −1 to +1.",
  variance: "The share of all the variance at this place, over the text it was fitted on, that lies along the direction.",
  "σ": "The standard deviation of the coordinate x·d over the text the direction was fitted on: the unit a steer's strength can be given in.",
  length: "The length of the direction's vector before it is brought to one.",
  "logit difference": "How much higher the model's score of one answer is than of the other, read from the stream through the final norm. At the last row of the last token it is the model's own.",
  lens: "The likeliest next token if the model stopped at this row: the row is read through the final norm and the unembedding.",
  norm: "The length of the stream's vector at the cell.",
  "layer Δ": "What the last layer added: the value at this row less that at the row below.",
  "attention sink": "A token whose vector is over ten times as long as usual, mostly the first: heads attend to it when they have nothing else to do. It is hatched in every row, and left out of scales, means and fits.",
  clipped: "Farther from zero than full colour. The cell has a corner tick; its number is right.",
  scale: "How large a value has to be for full colour. It is of the cells that are not far above the rest, by row or for the whole picture, and can be locked.",
  mix: "A weighted sum of directions, of any dictionaries. Move the sliders to find a new direction; the picture follows.",
  "ablate": "To put nothing (or another value) in place of what is there, and let the model go on from it.",
  steer: "To add a multiple of a direction to the stream while the model runs.",
  "project out": "To take the stream's part along a direction away while the model runs.",
  freeze: "To keep attention patterns as they are in the unedited run, so that only what flows along them changes.",
  probe: "A classifier of the stream, fitted on prompts with known labels; its direction can be steered along.",
  evidence: "Two tests of a direction beside random ones: does it tell something of the text, and does the model use it?",
  certificate: "Before anything is shown, Residscope checks that its own steps give the model's own logits; the badge is the largest difference.",
} as const;

export type Term = keyof typeof TERMS;

"""What several families have in common: the reasons for absent sites, and the names that most configurations use."""

ROTARY = {"pos_embed": "rotary positions turn q and k inside attention; no position vector is added to the stream"}
ALIBI = {"pos_embed": "positions are a slope on the attention scores; no position vector is added to the stream"}
NO_QK_NORM = {"q_scale": "queries are not normed", "k_scale": "keys are not normed"}
NO_POST_NORM = {
    "attn_post_scale": "no norm stands between attention and the stream",
    "mlp_post_scale": "no norm stands between the MLP and the stream",
}
NO_PRE_NORM = {
    "attn_scale": "attention reads the stream as it is: its norm comes after it",
    "mlp_scale": "the MLP reads the stream as it is: its norm comes after it",
}
DENSE = {"router": "the MLP is dense, not a mixture of experts"}
EXPERTS = {
    "mlp_pre": "the experts are one fused module: no neurons of theirs can be seen",
    "mlp_gate": "the experts are one fused module: no gates of theirs can be seen",
    "mlp_post": "the experts are one fused module: no neurons of theirs can be seen",
}
NO_GATE = {"mlp_gate": "the MLP has no gate: mlp_pre goes through the nonlinearity itself"}
PARALLEL = {"resid_mid": "attention and MLP read the same stream side by side: nothing stands between them"}
NO_MLP = {
    "resid_mid": "the block ends with attention: what stands after it is resid_post",
    "mlp_scale": "the blocks have attention only, no MLP and no norm before one",
    "mlp_in": "the blocks have attention only, no MLP",
    "mlp_pre": "the blocks have attention only, no MLP and no neurons",
    "mlp_gate": "the blocks have attention only, no MLP and no gates",
    "mlp_post": "the blocks have attention only, no MLP and no neurons",
    "mlp_post_scale": "the blocks have attention only, no MLP and no norm after one",
    "router": "the blocks have attention only, no MLP and no experts",
    "mlp_raw": "the blocks have attention only, no MLP",
    "mlp_out": "the blocks have attention only: resid_pre + attn_out = resid_post",
}
ONE_NORM = {"mlp_scale": "attention and MLP read the output of one norm: its divisor is attn_scale"}

SIZES = {
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "d_model": "hidden_size",
    "d_head": "head_dim",
    "d_mlp": "intermediate_size",
    "d_vocab": "vocab_size",
    "context": "max_position_embeddings",
}
CONFIG: dict[str, tuple[object, ...]] = {
    "attention_dropout": (),
    "hidden_act": (),
    "hidden_size": (),
    "intermediate_size": (),
    "max_position_embeddings": (),
    "num_attention_heads": (),
    "num_hidden_layers": (),
    "num_key_value_heads": (),
    "rope_parameters": (),
    "vocab_size": (),
}
GPT_SIZES = {
    "n_layers": "n_layer",
    "n_heads": "n_head",
    "d_model": "n_embd",
    "d_mlp": "n_inner",
    "d_vocab": "vocab_size",
    "context": "n_positions",
}
GPT_CONFIG: dict[str, tuple[object, ...]] = {
    "activation_function": (),
    "attn_pdrop": (),
    "embd_pdrop": (),
    "layer_norm_epsilon": (),
    "n_ctx": (),
    "n_embd": (),
    "n_head": (),
    "n_inner": (),
    "n_layer": (),
    "n_positions": (),
    "resid_pdrop": (),
    "scale_attn_weights": (),
    "summary_activation": (),
    "summary_first_dropout": (),
    "summary_proj_to_labels": (),
    "summary_type": (),
    "summary_use_proj": (),
    "vocab_size": (),
}

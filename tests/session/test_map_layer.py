"""The open layer of every family: each drawn step is a site with that shape, and its value numpy's of the recording."""

import json
from typing import Any

import numpy as np
import pytest
from families import FAMILIES

from residscope.engine.model import Model
from residscope.engine.recording import Recording
from residscope.model.sites import KINDS
from residscope.session.maps.layer import layer_file

IDS = [5, 17, 3, 42, 8, 60]
AT = 4


@pytest.fixture(params=FAMILIES, scope="module")
def model(request: pytest.FixtureRequest) -> Model:
    return Model(FAMILIES[request.param].build(), name=request.param)


@pytest.fixture(scope="module")
def whole(model: Model) -> Recording:
    return model.run(IDS, capture=model.sites.names)


def rows(model: Model, layer: int) -> list[dict[str, Any]]:
    file = layer_file(model.run(IDS), layer, AT)
    size = int.from_bytes(file[:8], "little")
    found: list[dict[str, Any]] = json.loads(json.loads(file[8 : 8 + size])["__metadata__"]["sites"])
    return found


def test_every_drawn_step_is_a_site_with_that_shape_and_value(model: Model, whole: Recording) -> None:
    for layer in range(model.n_layers):
        found = rows(model, layer)
        own = {row["site"] for row in found if row["site"]}
        want = {f"{name}.{layer}" for name in model.sites.names if KINDS[name].layered}
        assert own - {"embed", "pos_embed"} == want, "drawn, or listed as the same tensor as one that is"
        assert ({"embed", "pos_embed"} & own == {"embed", "pos_embed"} & {*model.sites.names}) == (layer == 0) or layer
        for row in found:
            if not row["site"]:
                assert (row["place"], row["values"]) == (f"experts.{layer}", [])
                continue
            value = whole[row["site"]].double().numpy()
            assert [*row["shape"].values()] == [n for n in value.shape[1:] if n > 1 or row["shape"].get("kv_head") == n]
            by_head = value[0, :, AT] if "key" in row["shape"] else value[0, AT]
            flat = by_head.reshape(-1, by_head.shape[-1])
            if row["where"] is None:
                np.testing.assert_allclose(row["values"], np.linalg.norm(flat, axis=-1), rtol=1e-5)
            else:
                np.testing.assert_allclose(row["values"], flat.max(-1), rtol=1e-5)
                assert row["where"] == flat.argmax(-1).tolist()
            assert row["equation"]
            assert row["same"] is None or row["same"] in own


def test_what_is_read_is_drawn_or_comes_from_the_layer_below(model: Model) -> None:
    for layer in range(model.n_layers):
        found = rows(model, layer)
        drawn = {row["place"] for row in found if not row["same"]} | {f"resid_post.{layer - 1}"}
        assert {place for row in found for place in row["reads"]} <= drawn

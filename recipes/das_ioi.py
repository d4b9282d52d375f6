"""DAS beside LRQP and the mean difference on SmolLM2-135M: `python recipes/das_ioi.py`.

The direction is trained by exchange on 96 prompts without prefixes; probes and class means are of 96 prompts with prefixes,
and the table is of 144 others.
"""

import residscope as rs
from residscope.methods.probes.das import das
from residscope.methods.probes.intervention import METHODS, intervene

model = rs.load("smollm2-135m")
train, test = rs.tasks.ioi(model, 240, seed=0).split(0.6, by="order")
probe = rs.fit_probe(model, train, held_out=test, site="resid_mid.18", position="S2", label="order")
found = das(model, rs.tasks.ioi(model, 96, seed=1, prefixes=False), probe, steps=25, batch=12, rate=0.3)
difference = probe.class_means[0] - probe.class_means[1]
print(f"cosine with the difference of means {float(found.unit @ difference / difference.norm()):.2f}")
print("mean logit difference under the exchange, step by step:", [round(x, 2) for x in found.effect])
makers = {
    "DAS": lambda probe, to: found.edit(to),
    "LRQP": METHODS["LRQP"],
    "mean difference": METHODS["mean difference"],
}
for one in intervene(model, test, [probe], makers):
    print(one, one.flips().interval, {name: round(value, 3) for name, value in one.numbers().items()})

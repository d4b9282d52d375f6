"""Graphs as others read them, and theirs: the graph's own JSON, Neuronpedia's, circuit-tracer's `.pt`, pages and figures."""

from residscope.graph.exchange import circuit_tracer, drawn, neuronpedia, own
from residscope.graph.exchange.reading import GRAPH_JSON, read_json
from residscope.graph.graph import READERS, WRITERS

WRITERS[".neuronpedia.json"] = neuronpedia.write
WRITERS[".json"] = own.write
WRITERS.update(dict.fromkeys((".html", ".svg", ".png", ".pdf"), drawn.write))
READERS[".json"] = lambda path: (own.read if GRAPH_JSON in (told := read_json(path)) else neuronpedia.read)(
    told, path.name
)
READERS[".pt"] = circuit_tracer.read

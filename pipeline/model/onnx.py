"""ONNX models, run by onnxruntime: an extra, `lakescore[onnx]`. What a file may have is in `onnx_graph.py`."""

from __future__ import annotations

import torch

from pipeline.model.library_model import LibraryModel, extra, reading, scoring
from pipeline.model.onnx_graph import Graph, parse


class Onnx(LibraryModel):
    """A graph in a session of onnxruntime, which several threads may call at once."""

    library = "onnxruntime"

    def __init__(self, graph: Graph, where: object) -> None:
        super().__init__(graph.ports, 0, where)
        with extra("onnx"):
            import onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what fails is raised
        options.add_session_config_entry("session.load_model_format", "ONNX")
        with reading("ONNX model", where):
            self._session = onnxruntime.InferenceSession(graph.content, options, providers=["CPUExecutionProvider"])
        self._inputs, self._doubles, self._output = graph.inputs, graph.doubles, graph.output
        self.output = graph.output if graph.among_several else None
        self.ending, self.casts_to_half, self.stated = graph.ending, graph.casts_to_half, graph.stated
        self.outputs = self._count()

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        given = {
            name: (tensor.double() if name in self._doubles else tensor).contiguous().numpy()
            for name, tensor in zip(self._inputs, tensors, strict=True)
        }
        with scoring(self.where):
            (found,) = self._session.run([self._output], given)
            output = torch.from_numpy(found)
        return output.unsqueeze(1) if output.ndim == 1 else output

    def _count(self) -> int:
        """Returns the number of outputs per row: what the file says, else what it gives for two rows of zeros."""
        shape = self._session.get_outputs()[0].shape
        if len(shape) == 2 and isinstance(shape[1], int):
            return shape[1]
        zeros = [
            torch.zeros((2,) if port.flat else (2, port.columns), dtype=torch.int64 if port.int64 else torch.float32)
            for port in self.ports
        ]
        return int(self(*zeros).shape[-1])


def build(content: bytes, where: object, output: str | None = None) -> Onnx:
    """Returns the model in an ONNX file; `output` is needed if several may be the scores.

    Raises ModelRefused, or UsageError if the extra is not installed.
    """
    return Onnx(parse(content, where, output), where)

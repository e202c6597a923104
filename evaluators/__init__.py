"""What a sub-network is worth: evaluators, which see it through a Protocol. Never imports the engine."""

from evaluators.cost_model import CostModel, cost_model
from evaluators.decoder_operators import LayerSizes, decoder_operators
from evaluators.exclusive import BusyError, alone, computing
from evaluators.latency import Latency, LatencyReport
from evaluators.latency_comparison import LatencyComparison, compare_latency
from evaluators.likelihoods import log_likelihoods
from evaluators.macs import Macs
from evaluators.multiple_choice import MultipleChoiceAccuracy
from evaluators.operators import Operator
from evaluators.parameters import ParameterCount
from evaluators.prefix_reuse import depth_first
from evaluators.protocol import BatchEvaluator, Direction, Evaluator, Measurement, Session, Subnetwork
from evaluators.questions import Question, QuestionFileError, load_questions, save_questions, split
from evaluators.racing import Racing
from evaluators.registry import evaluator_names, load_evaluator
from evaluators.timing import Timing
from evaluators.workload import Phase, Workload

__all__ = [
    "BatchEvaluator",
    "BusyError",
    "CostModel",
    "Direction",
    "Evaluator",
    "Latency",
    "LatencyComparison",
    "LatencyReport",
    "LayerSizes",
    "Macs",
    "Measurement",
    "MultipleChoiceAccuracy",
    "Operator",
    "ParameterCount",
    "Phase",
    "Question",
    "QuestionFileError",
    "Racing",
    "Session",
    "Subnetwork",
    "Timing",
    "Workload",
    "alone",
    "compare_latency",
    "computing",
    "cost_model",
    "decoder_operators",
    "depth_first",
    "evaluator_names",
    "load_evaluator",
    "load_questions",
    "log_likelihoods",
    "save_questions",
    "split",
]

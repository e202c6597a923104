"""What a sub-network is worth: evaluators, which see it through a Protocol. Never imports the engine."""

from evaluators.behaviour.answers import Ended, FormatKept, Repetition
from evaluators.behaviour.divergence import Divergence
from evaluators.behaviour.length import LengthChange
from evaluators.classification.evaluators import Classification, Regression
from evaluators.classification.labelled import Labelled
from evaluators.cost.device_sheet import Device, DeviceError, device_names, load_device
from evaluators.cost.energy import HOROWITZ_45NM, Energy, EnergyCosts
from evaluators.cost.footprint import KVCacheBytes, PeakMemory, WeightBytes
from evaluators.cost.macs import Macs
from evaluators.cost.parameters import NonZeroParameters, ParameterCount
from evaluators.cost.roofline import Roofline
from evaluators.functions.cost_model import CostModel, cost_model
from evaluators.functions.model_metric import ModelMetric, model_metric
from evaluators.latency.comparison import LatencyComparison, compare_latency
from evaluators.latency.evaluator import Latency, LatencyReport
from evaluators.latency.exclusive import BusyError, alone, computing
from evaluators.latency.timing import Timing
from evaluators.latency.workload import Phase, Workload
from evaluators.latency_table.table import LatencyTable, LatencyTableError
from evaluators.multiple_choice.accuracy import MultipleChoiceAccuracy
from evaluators.multiple_choice.likelihoods import log_likelihoods
from evaluators.multiple_choice.prefix_reuse import depth_first
from evaluators.multiple_choice.questions import Question, QuestionFileError, load_questions, save_questions, split
from evaluators.multiple_choice.racing import Racing
from evaluators.multiple_choice.screening import Screening
from evaluators.operators.decoder import LayerSizes, decoder_operators
from evaluators.operators.operator import Operator
from evaluators.protocol import (
    BatchEvaluator,
    Direction,
    Evaluator,
    EvaluatorDefaults,
    EvaluatorError,
    Measurement,
    ModelEvaluator,
    Session,
    Subnetwork,
    require_evaluator,
    sign_of,
)
from evaluators.registry import evaluator_names, load_evaluator
from evaluators.text.completion_perplexity import CompletionPerplexity
from evaluators.text.exact_match import ExactMatch
from evaluators.text.examples import Example, ScoredText
from evaluators.text.generation import greedy
from evaluators.text.harness import HarnessTask
from evaluators.text.perplexity import Perplexity
from evaluators.text.problems import Problem, ProblemFileError, load_problems

__all__ = [
    "HOROWITZ_45NM",
    "BatchEvaluator",
    "BusyError",
    "Classification",
    "CompletionPerplexity",
    "CostModel",
    "Device",
    "DeviceError",
    "Direction",
    "Divergence",
    "Ended",
    "Energy",
    "EnergyCosts",
    "Evaluator",
    "EvaluatorDefaults",
    "EvaluatorError",
    "ExactMatch",
    "Example",
    "FormatKept",
    "HarnessTask",
    "KVCacheBytes",
    "Labelled",
    "Latency",
    "LatencyComparison",
    "LatencyReport",
    "LatencyTable",
    "LatencyTableError",
    "LayerSizes",
    "LengthChange",
    "Macs",
    "Measurement",
    "ModelEvaluator",
    "ModelMetric",
    "MultipleChoiceAccuracy",
    "NonZeroParameters",
    "Operator",
    "ParameterCount",
    "PeakMemory",
    "Perplexity",
    "Phase",
    "Problem",
    "ProblemFileError",
    "Question",
    "QuestionFileError",
    "Racing",
    "Regression",
    "Repetition",
    "Roofline",
    "ScoredText",
    "Screening",
    "Session",
    "Subnetwork",
    "Timing",
    "WeightBytes",
    "Workload",
    "alone",
    "compare_latency",
    "computing",
    "cost_model",
    "decoder_operators",
    "depth_first",
    "device_names",
    "evaluator_names",
    "greedy",
    "load_device",
    "load_evaluator",
    "load_problems",
    "load_questions",
    "log_likelihoods",
    "model_metric",
    "require_evaluator",
    "save_questions",
    "sign_of",
    "split",
]

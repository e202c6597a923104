"""What a sub-network is worth: evaluators, which see it through a Protocol. Never imports the engine."""

from evaluators.cost_model import CostModel, cost_model
from evaluators.decoder_operators import LayerSizes, decoder_operators
from evaluators.energy import HOROWITZ_45NM, Energy, EnergyCosts
from evaluators.exact_match import ExactMatch
from evaluators.exclusive import BusyError, alone, computing
from evaluators.footprint import KVCacheBytes, PeakMemory, WeightBytes
from evaluators.hardware import Device, DeviceError, device_names, load_device
from evaluators.harness import HarnessTask
from evaluators.latency import Latency, LatencyReport
from evaluators.latency_comparison import LatencyComparison, compare_latency
from evaluators.latency_table import LatencyTable, LatencyTableError
from evaluators.likelihoods import log_likelihoods
from evaluators.macs import Macs
from evaluators.model_metric import ModelMetric, model_metric
from evaluators.multiple_choice import MultipleChoiceAccuracy
from evaluators.operators import Operator
from evaluators.parameters import NonZeroParameters, ParameterCount
from evaluators.perplexity import Perplexity
from evaluators.prefix_reuse import depth_first
from evaluators.problems import Problem, ProblemFileError, load_problems
from evaluators.protocol import BatchEvaluator, Direction, Evaluator, Measurement, Session, Subnetwork
from evaluators.questions import Question, QuestionFileError, load_questions, save_questions, split
from evaluators.racing import Racing
from evaluators.registry import evaluator_names, load_evaluator
from evaluators.roofline import Roofline
from evaluators.screening import Screening
from evaluators.timing import Timing
from evaluators.workload import Phase, Workload

__all__ = [
    "HOROWITZ_45NM",
    "BatchEvaluator",
    "BusyError",
    "CostModel",
    "Device",
    "DeviceError",
    "Direction",
    "Energy",
    "EnergyCosts",
    "Evaluator",
    "ExactMatch",
    "HarnessTask",
    "KVCacheBytes",
    "Latency",
    "LatencyComparison",
    "LatencyReport",
    "LatencyTable",
    "LatencyTableError",
    "LayerSizes",
    "Macs",
    "Measurement",
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
    "Roofline",
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
    "load_device",
    "load_evaluator",
    "load_problems",
    "load_questions",
    "log_likelihoods",
    "model_metric",
    "save_questions",
    "split",
]

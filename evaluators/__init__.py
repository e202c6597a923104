"""What a sub-network is worth: evaluators, which see it through a Protocol. Never imports the engine."""

from evaluators.cost_model import CostModel, cost_model
from evaluators.decoder_operators import LayerSizes, decoder_operators
from evaluators.hardware import Device, DeviceError, device_names, load_device
from evaluators.energy import HOROWITZ_45NM, Energy, EnergyCosts
from evaluators.exact_match import ExactMatch
from evaluators.footprint import KVCacheBytes, PeakMemory, WeightBytes
from evaluators.harness import HarnessTask
from evaluators.latency import Latency, LatencyComparison, compare_latency
from evaluators.macs import Macs
from evaluators.model_metric import ModelMetric, model_metric
from evaluators.multiple_choice import MultipleChoiceAccuracy, log_likelihoods
from evaluators.operators import Operator
from evaluators.parameters import NonZeroParameters, ParameterCount
from evaluators.perplexity import Perplexity
from evaluators.problems import Problem, ProblemFileError, load_problems
from evaluators.protocol import Direction, Evaluator, Measurement, Subnetwork
from evaluators.questions import Question, QuestionFileError, load_questions, save_questions, split
from evaluators.registry import evaluator_names, load_evaluator
from evaluators.roofline import Roofline
from evaluators.timing import Timing

__all__ = [
    "HOROWITZ_45NM",
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
    "Problem",
    "ProblemFileError",
    "Question",
    "QuestionFileError",
    "Roofline",
    "Subnetwork",
    "Timing",
    "WeightBytes",
    "compare_latency",
    "cost_model",
    "decoder_operators",
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

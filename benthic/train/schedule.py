"""Learning rate, bias rate and look-ahead weight as functions of the step."""

from benthic.config import PretrainConfig, ReasonConfig


def learning_rate(step: int, config: PretrainConfig | ReasonConfig) -> float:
    """Linear warm-up, constant, linear decay to zero; `step` counts from 0."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    left = (config.steps - step) / max(1.0, config.decay_share * config.steps)
    return config.learning_rate * warm * min(1.0, left)


def bias_rate(step: int, config: PretrainConfig) -> float:
    """Gamma of the router bias: constant, then 0 for the last steps (V3 section 4.2)."""
    return config.bias_rate if step < config.steps * (1 - config.bias_off_share) else 0.0


def mtp_weight(step: int, config: PretrainConfig) -> float:
    """Lambda of the look-ahead loss: high, then low once the rate decays (V3 section 4.2)."""
    decaying = step >= config.steps * (1 - config.decay_share)
    return config.mtp_weight_late if decaying else config.mtp_weight

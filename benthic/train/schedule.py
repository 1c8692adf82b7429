"""Learning rate, bias rate and weight of the MTP loss as functions of the step.

All three are functions of the step and the recipe alone, so a resumed run needs no state of them.
Warm-up is linear, the rate then constant (V3 section 4.2); its decay is linear to zero, where V3
takes a cosine and two constant tails. The MTP weight turns where the decay begins.
"""

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
    """Lambda of the MTP loss: high, then low once the rate decays (V3 section 4.2)."""
    decaying = step >= config.steps * (1 - config.decay_share)
    return config.mtp_weight_late if decaying else config.mtp_weight

//! What the frozen weights are kept as.

use sharelora_kernels::matrix::Format;

/// How a frozen weight is kept. The arithmetic is f32 either way.
///
/// What a file already stores so is used where it lies in the file, without a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Storage {
    /// Values of single precision.
    #[default]
    F32,
    /// Half the memory; values are rounded to nearest even, and widened for each product that they take part in.
    Bf16,
    /// Like `Bf16`, with more digits and a smaller range: beyond 65504 a value is infinite.
    F16,
    /// As the file has it: F32, F16, BF16, Q8_0 and Q4_1. Other types are kept as F32, which has their exact values.
    Stored,
    /// As QLoRA keeps it (arXiv 2305.14314): the linear layers of the blocks in NF4 with double quantisation, all else as `Bf16`.
    /// What is quantised are the values of the file. GPT-2's fused `c_attn` is quantised as the three parts that it is kept as.
    Nf4,
}

impl Storage {
    /// The format that is asked for; `None` for the file's own.
    pub(crate) fn format(self) -> Option<Format> {
        match self {
            Self::F32 => Some(Format::F32),
            Self::Bf16 => Some(Format::Bf16),
            Self::F16 => Some(Format::F16),
            Self::Stored => None,
            Self::Nf4 => Some(Format::Nf4),
        }
    }

    /// What this means for a weight that is, or is not, that of a linear layer of a block.
    pub(crate) fn of(self, linear: bool) -> Self {
        match self {
            Self::Nf4 if !linear => Self::Bf16,
            storage => storage,
        }
    }
}

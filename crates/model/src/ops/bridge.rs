//! An operation with a derivative of its own as a node of burn's graph.

use std::fmt::Debug;

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::NoCheckpointing};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, DispatchKindConversion};
use burn::tensor::{DispatchTensor, Tensor};

/// One operation on one backend: `N` tensors in, one out.
pub(crate) trait Operation<B: Backend, const N: usize>:
    Clone + Debug + Send + 'static
{
    /// What the backward pass needs of the forward pass; freed once it has run.
    type Saved: Clone + Debug + Send + 'static;

    fn forward(&self, inputs: [FloatTensor<B>; N]) -> (FloatTensor<B>, Self::Saved);

    /// The gradient with respect to each input that wants one, given that of the output.
    fn backward(
        &self,
        saved: Self::Saved,
        gradient: FloatTensor<B>,
        wanted: [bool; N],
    ) -> [Option<FloatTensor<B>>; N];
}

#[derive(Debug, Clone)]
struct Node<O>(O);

impl<B: Backend, O: Operation<B, N>, const N: usize> Backward<B, N> for Node<O> {
    type State = O::Saved;

    fn backward(
        self,
        ops: Ops<Self::State, N>,
        gradients: &mut Gradients,
        _checkpointer: &mut Checkpointer,
    ) {
        let gradient = gradients.consume::<B>(&ops.node);
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let found = self.0.backward(ops.state, gradient, wanted);
        for (parent, value) in ops.parents.into_iter().zip(found) {
            if let (Some(parent), Some(value)) = (parent, value) {
                gradients.register::<B>(parent.id, value);
            }
        }
    }
}

/// Runs `operation` on the backend `B`, which the inputs must be on; recorded where one of them is under autodiff.
pub(crate) fn apply<B, O, const N: usize>(operation: O, inputs: [Tensor<2>; N]) -> Tensor<2>
where
    B: Backend,
    O: Operation<B, N>,
    DispatchTensor: DispatchKindConversion<B> + DispatchKindConversion<Autodiff<B>>,
{
    const HERE: &str = "the backend was asked for before";
    if !inputs.iter().any(Tensor::is_autodiff) {
        let inputs = inputs.map(|t| t.try_into_primitive::<B>().expect(HERE));
        return Tensor::from_primitive::<B>(operation.forward(inputs).0);
    }
    let mut guards = Vec::with_capacity(N);
    let values = inputs.map(|t| {
        let t = if t.is_autodiff() { t } else { t.autodiff() };
        let (value, guard) = t
            .try_into_primitive::<Autodiff<B>>()
            .expect(HERE)
            .into_parts();
        guards.push(guard);
        value
    });
    let guards = guards.try_into().expect("one for each input");
    let (out, saved) = operation.forward(values);
    let node = Node(operation).prepare::<NoCheckpointing>(guards);
    Tensor::from_primitive::<Autodiff<B>>(match node.compute_bound().stateful() {
        OpsKind::Tracked(node) => node.finish(saved, out),
        OpsKind::UnTracked(node) => node.finish(out),
    })
}

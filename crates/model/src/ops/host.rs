//! Tensors of the pure-Rust backend as slices.

pub(crate) use burn::backend::flex::FlexTensor;
use burn::tensor::TensorData;

/// (rows, columns)
pub(crate) fn dims(tensor: &FlexTensor) -> [usize; 2] {
    let shape = tensor.layout().shape();
    [shape[0], shape[1]]
}

/// The same values, row-major and without gaps.
pub(crate) fn dense(tensor: FlexTensor) -> FlexTensor {
    match tensor.as_slice::<f32>() {
        Some(_) => tensor,
        None => tensor.to_contiguous(),
    }
}

/// The values of a [`dense`] tensor.
pub(crate) fn slice(tensor: &FlexTensor) -> &[f32] {
    tensor
        .as_slice()
        .expect("f32 and dense: so the caller made it")
}

/// The values of a dense tensor to be written over; copied where another tensor reads them too.
pub(crate) fn slice_mut(tensor: &mut FlexTensor) -> &mut [f32] {
    let count: usize = dims(tensor).iter().product();
    let (start, _) = tensor
        .layout()
        .contiguous_offsets()
        .expect("dense: so the caller made it");
    &mut tensor.storage_mut::<f32>()[start..start + count]
}

pub(crate) fn tensor(values: Vec<f32>, rows: usize, columns: usize) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, [rows, columns]))
}

/// A buffer for the result of a kernel, which writes every value.
pub(crate) fn buffer(count: usize) -> Vec<f32> {
    vec![0.0; count]
}

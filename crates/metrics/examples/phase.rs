use std::time::Instant;
fn main(){
    let a: Vec<_> = std::env::args().collect();
    let t=Instant::now();
    let c = sharelora_metrics::e2e::Corpus::read(a[1].as_ref(), a[2].as_ref()).unwrap();
    eprintln!("read {:?}", t.elapsed());
    for _ in 0..3 { let t=Instant::now(); let s = sharelora_metrics::e2e::scores(&c); eprintln!("scores {:?} {}", t.elapsed(), s.bleu); }
}

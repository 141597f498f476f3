//! How many parameters each method trains: the numbers of the paper and of the public implementations, so that
//! a table made here is about the same adapters.

mod common;

use common::{METHODS, Projection, config, layout, sharing, sites};
use serde_json::json;
use sharelora_adapters::{AdapterConfig, Layout, Method, Site};

fn count(sites: &[Site], method: &str, config: &AdapterConfig) -> u64 {
    layout(sites, &sharing(method), config).trainable_parameters()
}

/// The linear layers of a LLaMA block.
fn llama(hidden: usize, kv: usize, ffn: usize) -> [Projection<'static>; 7] {
    [
        ("q_proj", hidden, hidden),
        ("k_proj", hidden, kv),
        ("v_proj", hidden, kv),
        ("o_proj", hidden, hidden),
        ("gate_proj", hidden, ffn),
        ("up_proj", hidden, ffn),
        ("down_proj", ffn, hidden),
    ]
}

/// RoBERTa's block, of which `query` and `value` are adapted.
fn roberta(hidden: usize) -> Vec<Projection<'static>> {
    vec![
        ("query", hidden, hidden),
        ("key", hidden, hidden),
        ("value", hidden, hidden),
        ("attention.output.dense", hidden, hidden),
        ("intermediate.dense", hidden, 4 * hidden),
        ("output.dense", 4 * hidden, hidden),
    ]
}

/// q and v of GPT-2's fused `c_attn`, two sites.
fn gpt2(hidden: usize) -> Vec<Projection<'static>> {
    vec![("q", hidden, hidden), ("v", hidden, hidden)]
}

#[test]
fn trained_parameters_are_those_of_the_papers_tables() {
    let seven = llama(4096, 4096, 11_008).to_vec();
    let thirteen = llama(5120, 5120, 13_824).to_vec();
    let three = llama(4096, 1024, 14_336).to_vec();
    let qv = ["q_proj", "v_proj"].as_slice();
    let all = ["all_linear"].as_slice();
    type Row<'a> = (
        &'a str,
        usize,
        Vec<Projection<'a>>,
        usize,
        &'a [&'a str],
        [u64; 4],
    );
    #[rustfmt::skip]
    let table: [Row<'_>; 8] = [
        ("RoBERTa-base", 12, roberta(768), 8, &["query", "value"], [294_912, 159_744, 159_744, 24_576]),
        ("RoBERTa-large", 24, roberta(1024), 8, &["query", "value"], [786_432, 409_600, 409_600, 32_768]),
        ("GPT-2 medium", 24, gpt2(1024), 4, &["q", "v"], [393_216, 204_800, 204_800, 16_384]),
        ("GPT-2 large", 36, gpt2(1280), 4, &["q", "v"], [737_280, 378_880, 378_880, 20_480]),
        ("LLaMA-7B", 32, seven.clone(), 64, all, [159_907_840, 89_309_184, 75_595_776, 4_997_120]),
        ("LLaMA-13B", 40, thirteen, 64, all, [250_347_520, 139_165_696, 117_440_512, 6_258_688]),
        ("LLaMA-7B q,v", 32, seven, 64, qv, [33_554_432, 17_301_504, 17_301_504, 1_048_576]),
        ("LLaMA-3-8B q,v", 32, three, 64, qv, [27_262_976, 11_010_048, 17_104_896, 851_968]),
    ];
    for (name, layers, projections, rank, targets, expected) in table {
        let config = AdapterConfig {
            targets: targets.iter().map(|t| t.to_string()).collect(),
            ..config(rank)
        };
        let sites = sites(layers, &projections);
        let counts = METHODS.map(|m| count(&sites, m, &config));
        assert_eq!(counts, expected, "{name}");
    }
}

/// The reductions that the abstract and the tables quote.
#[test]
fn llama_7b_saves_44_and_97_percent() {
    let sites = sites(32, &llama(4096, 4096, 11_008));
    let lora = count(&sites, "lora", &config(64)) as f64;
    let percent = |method| {
        let change = 100.0 * (count(&sites, method, &config(64)) as f64 / lora - 1.0);
        format!("{change:.1}")
    };
    assert_eq!(percent("share_a"), "-44.1");
    assert_eq!(percent("share_ab"), "-96.9");
}

/// By hand: one A for each of q, k, v (3 x 262,144); in every layer A of o, gate and up (262,144 each) and of
/// down (704,512), B of q, k, v, o and down (262,144 each), gate and up (704,512 each).
#[test]
fn share_a_qkv_shares_three_projections_only() {
    let sites = sites(32, &llama(4096, 4096, 11_008));
    let by_hand = 3 * 262_144 + 32 * (3 * 262_144 + 704_512 + 5 * 262_144 + 2 * 704_512);
    assert_eq!(by_hand, 135_528_448);
    let layout = layout(&sites, &sharing("share_a_qkv"), &config(64));
    assert_eq!(layout.trainable_parameters(), by_hand);
    assert_eq!(layout.adapter_bytes(), 4 * by_hand);
}

/// Groups of n: layers 0..n use one matrix, the last group may be smaller, a projection that is not named is
/// not shared.
#[test]
fn groups_and_limited_projections() {
    let sites = sites(5, &[("q_proj", 6, 6), ("v_proj", 6, 4)]);
    let sharing = common::custom(
        json!({"groups": 2, "projections": ["q_proj"]}),
        json!({"groups": 3}),
    );
    let layout = layout(&sites, &sharing, &config(2));
    let names = |list: &[sharelora_adapters::Matrix]| {
        list.iter().map(|m| m.name.clone()).collect::<Vec<_>>()
    };
    assert_eq!(
        names(&layout.a),
        [
            "layers.0-1.q_proj.a",
            "layers.0.v_proj.a",
            "layers.1.v_proj.a",
            "layers.2-3.q_proj.a",
            "layers.2.v_proj.a",
            "layers.3.v_proj.a",
            "layers.4-4.q_proj.a",
            "layers.4.v_proj.a",
        ]
    );
    assert_eq!(
        names(&layout.b),
        [
            "layers.0-2.q_proj.b",
            "layers.0-2.v_proj.b",
            "layers.3-4.q_proj.b",
            "layers.3-4.v_proj.b"
        ]
    );
    let of = |layer, projection: &str| layout.slots[layout.find(layer, projection).unwrap()];
    assert_eq!(of(0, "q_proj").a, of(1, "q_proj").a);
    assert_ne!(of(1, "q_proj").a, of(2, "q_proj").a);
    assert_ne!(of(0, "v_proj").a, of(1, "v_proj").a);
    assert_eq!(of(3, "v_proj").b, of(4, "v_proj").b);
    assert_eq!(layout.find(5, "q_proj"), None);
    // 3 A of q, 5 of v, 2 B of q (6 x 2) and 2 of v (4 x 2).
    assert_eq!(layout.trainable_parameters(), 8 * 12 + 2 * 12 + 2 * 8);
}

/// A group of all layers is `all_layers`, a group of one is `per_layer`.
#[test]
fn groups_reach_from_lora_to_share_a() {
    let sites = sites(6, &[("q_proj", 8, 8)]);
    for (n, method) in [(1, "lora"), (6, "share_a"), (usize::MAX, "share_a")] {
        let groups = common::custom(json!({ "groups": n }), json!("per_layer"));
        let grouped = layout(&sites, &groups, &config(2));
        let named = layout(&sites, &sharing(method), &config(2));
        assert_eq!(grouped.slots, named.slots, "{n}");
    }
}

#[test]
fn sites_of_different_widths_are_not_joined() {
    let mut list = sites(3, &[("q_proj", 8, 8)]);
    list[2].in_features = 12;
    let message = Layout::new(&list, &sharing("share_a"), &config(2))
        .unwrap_err()
        .to_string();
    for part in [&list[0].path, &list[2].path, "[2, 8]", "[2, 12]"] {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
    // Only A has the odd width, so B may be shared.
    Layout::new(&list, &sharing("share_b"), &config(2)).unwrap();
}

#[test]
fn wrong_settings_are_named() {
    let list = sites(2, &[("q_proj", 8, 8), ("v_proj", 8, 8)]);
    let lora = sharing("lora");
    let message = |change: &dyn Fn(&mut AdapterConfig)| {
        let mut config = config(2);
        change(&mut config);
        Layout::new(&list, &lora, &config).unwrap_err().to_string()
    };
    let unknown = message(&|c| c.targets = vec!["query".into()]);
    assert!(
        unknown.contains("`query`") && unknown.contains("q_proj, v_proj"),
        "{unknown}"
    );
    assert!(message(&|c| c.rank = 0).contains("`rank`"));
    assert!(message(&|c| c.alpha = f64::NAN).contains("`alpha`"));
    assert!(message(&|c| c.dropout = 1.0).contains("`dropout`"));
    assert!(message(&|c| c.targets.clear()).contains("`targets`"));
    assert!(Method::named("base").unwrap().sharing().is_none());
}

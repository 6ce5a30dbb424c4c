use super::Comparison;
use crate::config::find;

const SMALL: &str = "
trial: {recipe: micro}
seeds: [0, 1]
backbones: [vit-micro, {use: resnet-micro, set: {recipe.batch_size: 16}}]
datasets:
  natural: [mini-vtab/natural-digits]
  structured: [{use: mini-vtab/structured-scenes-count, label: count}]
methods:
  - linear-probe
  - use: {name: ap}
    label: AP
    set: {recipe.optimizer.lr: 0.1}
    on: {resnet-micro: {method.boundaries: [-3]}, count: {recipe.epochs: 2}}
";

fn parse(text: &str) -> Result<Comparison, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("small.yaml");
    std::fs::write(&path, text).unwrap();
    let read = Comparison::read(path.to_str().unwrap(), &[]);
    read.map_err(|failure| failure.to_string())
}

#[test]
fn names_alone_are_entries_and_groups_are_lists() {
    let comparison = parse(SMALL).unwrap();
    assert_eq!(comparison.name, "small");
    let labels: Vec<_> = comparison.datasets.iter().map(|d| &d.label[..]).collect();
    assert_eq!(labels, ["natural-digits", "count"]);
    assert_eq!(comparison.datasets[1].group.as_deref(), Some("structured"));
    assert_eq!(comparison.method_labels(), ["linear-probe", "AP"]);
    let of_catalogue = parse(&SMALL.replace("[mini-vtab/natural-digits]", "[vtab-1k/dtd]"));
    let of_catalogue = of_catalogue.unwrap();
    assert_eq!(of_catalogue.datasets[0].group.as_deref(), Some("natural"));
}

#[test]
fn missing_keys_come_from_the_extended_comparison() {
    let comparison = parse("{extends: mini-table1, seeds: [7]}").unwrap();
    assert_eq!(comparison.name, "small");
    assert_eq!((comparison.seeds, comparison.datasets.len()), (vec![7], 6));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("circle.yaml");
    std::fs::write(&path, format!("extends: {}", path.display())).unwrap();
    let circle = Comparison::read(path.to_str().unwrap(), &[]);
    let circle = circle.unwrap_err().to_string();
    assert!(circle.contains("or in a circle"), "{circle}");
}

#[test]
fn every_shipped_comparison_parses() {
    let names = find::names("compare/");
    assert!(names.len() > 15, "{names:?}");
    for name in names {
        let read = Comparison::read(&name, &[]).map_err(|f| f.error);
        let comparison = read.unwrap_or_else(|e| panic!("{name}: {e:#}"));
        for method in &comparison.methods {
            for backbone in &comparison.backbones {
                let dataset = &comparison.datasets[0];
                let cell = comparison.experiment(method, backbone, dataset, 0);
                cell.unwrap_or_else(|f| panic!("{name}: {}: {:#}", method.label, f.error));
            }
        }
    }
}

#[test]
fn the_later_setting_wins() {
    let comparison = parse(SMALL).unwrap();
    let cell = |method: usize, backbone: usize, dataset: usize| {
        let (m, b) = (&comparison.methods[method], &comparison.backbones[backbone]);
        let experiment = comparison.experiment(m, b, &comparison.datasets[dataset], 7);
        let experiment = experiment.map_err(|f| f.error).unwrap();
        serde_json::to_value(experiment).unwrap()
    };
    let plain = cell(0, 0, 0);
    assert_eq!(plain["recipe"]["batch_size"], 32);
    assert_eq!(plain["seed"], 7);
    let ap = cell(1, 1, 1);
    assert_eq!(ap["recipe"]["batch_size"], 16);
    assert_eq!(ap["recipe"]["epochs"], 2);
    assert_eq!(ap["recipe"]["optimizer"]["lr"], 0.1);
    assert_eq!(ap["method"]["boundaries"], serde_json::json!([-3]));
    assert_ne!(
        cell(1, 0, 0)["method"]["boundaries"],
        ap["method"]["boundaries"]
    );
}

#[test]
fn every_mistake_names_its_place() {
    let cases = [
        ("seeds: [0, 1]", "seeds: []", "seeds: expected at least one"),
        (
            "seeds: [0, 1]",
            "seeds: [1, 1]",
            "seeds: one is listed twice",
        ),
        (
            "{recipe: micro}",
            "{seed: 3}",
            "trial.seed: the comparison sets it for every trial",
        ),
        (
            "label: AP",
            "label: linear-probe",
            "is listed twice; give one of them another label",
        ),
        (
            "on: {resnet",
            "on: {resnte",
            "did you mean \"resnet-micro\"?",
        ),
        ("label: AP", "labl: AP", "unknown field `labl`"),
        (
            "label: AP",
            "tune: {recipe.optimizer.lr: {values: [1]}}",
            "there is no search",
        ),
        (
            "trial:",
            "baseline: lora\ntrial:",
            "baseline: unknown label \"lora\"",
        ),
        (
            "label: AP",
            "expected: {source: a paper, scores: {count: 90}}",
            "methods: ap: expected.backbone: expected a label, because the comparison has several",
        ),
        (
            "label: AP",
            "expected: {source: a paper, backbone: vit, scores: {count: 90}}",
            "expected.backbone: unknown label \"vit\"",
        ),
        (
            "label: AP",
            "expected: {source: a paper, backbone: vit-micro, scores: {counts: 90}}",
            "expected.scores: unknown label \"counts\"; did you mean \"count\"?",
        ),
        (
            "label: AP",
            "expected: {source: a paper, backbone: vit-micro, scores: {count: 900}}",
            "expected.scores.count: expected a percentage, got 900",
        ),
        (
            "label: AP",
            "expected: {source: ' ', backbone: vit-micro, scores: {}}",
            "expected.source: expected where the scores were published",
        ),
        (
            "trial:",
            "name: ../up\ntrial:",
            "name: expected the name of a folder",
        ),
        ("label: AP", "label: ' '", "methods: a label is empty"),
        (
            "trial:",
            "extends: lost\ntrial:",
            "extends: unknown name \"lost\"; there are: ",
        ),
        (
            "set: {recipe.optimizer.lr: 0.1}",
            "set: {dataset: digits}",
            "methods: AP: dataset cannot be set here",
        ),
    ];
    for (old, new, expected) in cases {
        let message = parse(&SMALL.replace(old, new)).unwrap_err();
        assert!(message.contains(expected), "{new}: {message}");
    }
}

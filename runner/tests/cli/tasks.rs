//! What a training aims at: weights of classes.

use std::path::Path;

use crate::{small, succeeded, summary};

/// What a small trial prints before it trains.
fn plan(more: &[&str], runs: &Path) -> String {
    succeeded(small(&[more, &["--dry-run"]].concat(), runs))
}

/// The message of a small trial that is refused.
fn refused(more: &[&str], runs: &Path) -> String {
    let output = small(more, runs);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{message}");
    message
}

#[test]
fn classes_are_weighed_in_the_training_loss_alone() {
    let runs = tempfile::tempdir().unwrap();
    let runs = runs.path();
    let [few, set] = [
        "recipe.epochs=1",
        "recipe.class_weights={disc/solid: 3, 5: 0.5}",
    ];
    let weighed = ["--set", few, "--set", set];
    let loss = |out: String| {
        let line = out.lines().find(|line| line.starts_with("loss "));
        line.map(str::to_owned)
    };
    let range = loss(plan(&weighed, runs)).unwrap();
    assert!(range.ends_with("classes weigh 0.500 to 3.000"), "{range}");
    assert_eq!(loss(plan(&[], runs)), None);
    let inverse = "recipe.class_weights=inverse_frequency";
    let digits = plan(&["--set", inverse, "--set", "dataset=digits"], runs);
    let each = loss(digits).unwrap();
    assert!(
        each.contains("classes weigh 0 1.0") && each.contains(", 9 "),
        "{each}"
    );

    succeeded(small(&weighed, runs));
    let one = summary(runs);
    let plain = tempfile::tempdir().unwrap();
    succeeded(small(&["--set", few], plain.path()));
    let other = summary(plain.path());
    assert_eq!(one["config"]["recipe"]["class_weights"]["disc/solid"], 3.0);
    assert_ne!(one["config_hash"], other["config_hash"]);
    let loss = "/history/0/train_loss";
    assert_ne!(one.pointer(loss), other.pointer(loss));

    for (set, part) in [
        ("{disc/sold: 3}", "did you mean `disc/solid`?"),
        ("[1, 2]", "recipe.class_weights: expected 64 weights"),
        (
            "{disc/solid: 0}",
            "recipe.class_weights.disc/solid: expected a finite number more than 0",
        ),
        (
            "none",
            "`inverse_frequency`, a list of weights or a mapping",
        ),
    ] {
        let set = format!("recipe.class_weights={set}");
        let message = refused(&["--set", &set], runs);
        assert!(message.contains(part), "{message}");
    }
}

//! The model card of an exported adapter: what it is, what it scored, how it is loaded.

use std::fmt::Write;

use peft_core::input::InputSpec;
use serde_json::Value;

use crate::config::experiment::Experiment;
use crate::run::summary::Summary;

/// The facts that a card states.
pub struct Card<'a> {
    /// The experiment that was trained.
    pub experiment: &'a Experiment,
    /// The run's report; none for an adapter without a run.
    pub summary: Option<&'a Summary>,
    /// The methods' names.
    pub methods: &'a [String],
    /// The classes' names.
    pub classes: &'a [String],
    /// Whether an image may show several classes, or none.
    pub multi_label: bool,
    /// The images that the model takes.
    pub input: &'a InputSpec,
    /// The licence of the adapter, as a hub spells it.
    pub license: Option<&'a str>,
    /// The hub's name of the base model.
    pub base_model: Option<&'a str>,
}

/// The most classes that are listed by name.
const LISTED: usize = 20;

impl Card<'_> {
    /// The card in Markdown, with a hub's fields in front.
    pub fn markdown(&self) -> String {
        let mut card = self.fields();
        let method = self.methods.join(" + ");
        let backbone = serde_json::json!(self.experiment.backbone);
        let text = |field: &str| backbone[field].as_str().map(str::to_owned);
        let family = text("name").unwrap_or_default();
        let variant = text("variant").unwrap_or_else(|| format!("{family} of its own sizes"));
        let dataset = dataset(self.experiment);
        let _ = write!(
            card,
            "# {method} on {variant}\n\n\
             An adapter of `{method}` for the frozen image backbone `{variant}`, trained on `{dataset}`. The folder holds \
             what was trained, not the backbone.\n\n\
             | | |\n|---|---|\n| base model | {variant} ({family}){} |\n| method | {method} |\n| data | {dataset} |\n\
             | classes | {} |\n| input | {} |\n",
            text("weights").map_or(String::new(), |file| format!(
                ", weights `{}`",
                file.rsplit('/').next().unwrap_or(&file)
            )),
            self.classes.len(),
            self.input,
        );
        card.push_str(&self.results());
        let _ = write!(
            card,
            "\n## How to load it\n\n```python\nimport timm, peft_vision\n\n\
             backbone = timm.create_model(\"{}\", pretrained=True)\n\
             model = peft_vision.load(backbone, \"FOLDER\").eval()\n\
             image = model.preprocess(pil_image)          # as in training\n\
             logits = model(image[None])                  # in the order of model.classes\n\
             probabilities = {}\n```\n\n\
             The backbone must have the weights that the adapter was trained on; `load` checks it. `runner predict RUN \
             --adapter FOLDER` reads the same folder.\n\n## Method\n\n```json\n{:#}\n```\n\n## Classes\n\n{}\n\n## Licence\n\n\
             Adapter: {}. Base model and data have licences of their own, which whoever publishes this folder must state \
             and respect.\n",
            text("variant").unwrap_or_else(|| "THE-BASE-MODEL".to_owned()),
            match self.multi_label {
                true => "logits.sigmoid()             # an image may show several classes, or none",
                false => "logits.softmax(-1)",
            },
            serde_json::json!(self.experiment.method),
            self.listed(),
            self.license.unwrap_or("not stated"),
        );
        card
    }

    /// The fields that hubs read, as YAML.
    fn fields(&self) -> String {
        let mut fields =
            String::from("---\nlibrary_name: peft-vision\npipeline_tag: image-classification\n");
        let license = self.license.unwrap_or("unknown");
        let _ = writeln!(fields, "license: {}", quoted(license));
        if let Some(base) = self.base_model {
            let _ = writeln!(
                fields,
                "base_model: {}\nbase_model_relation: adapter",
                quoted(base)
            );
        }
        let _ = writeln!(fields, "tags:");
        for tag in ["peft", "timm"]
            .into_iter()
            .chain(self.methods.iter().map(String::as_str))
        {
            let _ = writeln!(fields, "- {}", quoted(tag));
        }
        fields + "---\n\n"
    }

    fn results(&self) -> String {
        let Some(summary) = self.summary else {
            return String::new();
        };
        let mut table = String::from("\n## Results\n\n| split | metric | value |\n|---|---|---|\n");
        let splits = [
            ("validation", summary.validation.as_ref()),
            ("test", Some(&summary.test)),
        ];
        for (split, metrics) in splits {
            let Value::Object(mut metrics) = serde_json::json!(metrics) else {
                continue;
            };
            if let Some(Value::Object(more)) = metrics.remove("multi_label") {
                metrics.extend(more);
            }
            for (metric, value) in metrics {
                let value = match (value.as_u64(), value.as_f64()) {
                    (Some(count), _) => count.to_string(),
                    (None, Some(share)) => format!("{share:.4}"),
                    (None, None) => continue,
                };
                let _ = writeln!(table, "| {split} | {metric} | {value} |");
            }
        }
        let _ = write!(
            table,
            "\nSeed {}, epoch {} of {}; the test split was read once. {} parameters trained.\n",
            summary.seed, summary.best_epoch, summary.epochs, summary.params.trainable
        );
        table
    }

    fn listed(&self) -> String {
        let shown = self
            .classes
            .iter()
            .take(LISTED)
            .map(|name| format!("`{name}`"));
        let shown = shown.collect::<Vec<_>>().join(", ");
        match self.classes.len().checked_sub(LISTED) {
            Some(rest) if rest > 0 => format!("{shown} and {rest} more, in `config.json`."),
            _ => format!("{shown}."),
        }
    }
}

/// A string as YAML.
fn quoted(text: &str) -> String {
    serde_json::json!(text).to_string()
}

/// The data set's name, and that of its task if it has one.
fn dataset(experiment: &Experiment) -> String {
    let value = serde_json::json!(experiment.dataset);
    let fields = ["name", "task"].map(|field| value[field].as_str().map(str::to_owned));
    let named: Vec<String> = fields.into_iter().flatten().collect();
    named.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_a_hub_are_yaml() {
        let experiment = Experiment::read("quickstart", &[]).unwrap();
        let input = experiment.backbone.input().unwrap();
        let classes: Vec<String> = (0..25).map(|i| format!("class \"{i}\"")).collect();
        let card = Card {
            experiment: &experiment,
            summary: None,
            methods: &["lora".to_owned(), "bias".to_owned()],
            classes: &classes,
            multi_label: true,
            input: &input,
            license: Some("apache-2.0"),
            base_model: Some("timm/vit: a test"),
        };
        let text = card.markdown();
        let fields = text.split("---\n").nth(1).unwrap();
        let fields: Value = serde_yaml::from_str(fields).unwrap();
        assert_eq!(fields["license"], "apache-2.0");
        assert_eq!(fields["base_model"], "timm/vit: a test");
        assert_eq!(fields["tags"][3], "bias");
        assert!(text.contains("logits.sigmoid()"), "{text}");
        assert!(text.contains("# lora + bias on "), "{text}");
        assert!(text.contains("and 5 more, in `config.json`"), "{text}");
    }
}

//! Facts of a network that the shapes of its weights show, and where a configuration or a file beside the
//! weights says something else.

use serde_json::Value;

use super::resolve::same;
use super::{Fact, Published};
use crate::backbone::BackboneConfig;
use crate::checkpoint::{Checkpoint, Recognised, recognise};

/// Where `config`, which does not fit the weights in `file`, differs from what their shapes show: a line
/// for each fact, with both values, what states the one and which tensor shows the other. `written` is
/// the configuration before it was completed by what is `published` beside the weights.
pub fn contradictions(
    config: &dyn BackboneConfig,
    written: &dyn BackboneConfig,
    published: Option<&Published>,
    file: &Checkpoint,
) -> Vec<String> {
    // Without a backbone that has these shapes, there is nothing to compare with.
    let Ok(Some(found)) = recognise(file, published) else {
        return Vec::new();
    };
    let family = config.typetag_name();
    if found.plugin.name != family {
        let path = file.path().display();
        let other = format!(
            "name: the configuration states {family}, but {path} has the names and shapes of a {}",
            found.plugin.name
        );
        return Vec::from_iter(found.survey.fits().then_some(other));
    }
    let (Ok(own), Ok(shown)) = (config.facts(), found.config.facts()) else {
        return Vec::new();
    };
    let written = serde_json::to_value(written).unwrap_or_default();
    let differing = found.shown_by().iter().filter_map(|(name, _)| {
        let (own, shown) = (own.get(*name)?, shown.get(*name)?);
        if same(name, own, shown) {
            return None;
        }
        let states = stating(name, own, &written, published);
        let evidence = found.evidence(name, Some(own), file).unwrap_or_default();
        Some(format!(
            "{name}: {states}, but the weights show {shown}: {evidence}"
        ))
    });
    differing.collect()
}

/// Says in words who states a fact.
fn stating(name: &str, own: &Value, written: &Value, published: Option<&Published>) -> String {
    if !written[name].is_null() {
        return format!("the configuration states {own}");
    }
    let facts = published.into_iter().flat_map(|published| &published.facts);
    let mut stated: Vec<&Fact> = facts.filter(|fact| fact.name == name).collect();
    stated.sort_by_key(|fact| fact.implied);
    if let Some(fact) = stated.first() {
        let (path, field) = (fact.path.display(), &fact.field);
        return format!("{path} says {} ({field})", fact.value);
    }
    match written["variant"].as_str() {
        Some(variant) => format!("the variant {variant} has {own}"),
        None => format!("the rest of the configuration makes it {own}"),
    }
}

impl Recognised {
    /// The facts that the shapes of the family's weights show, each with a tensor that does.
    pub fn shown_by(&self) -> &'static [(&'static str, &'static str)] {
        self.plugin.family.map_or(&[], |family| family.shown_by)
    }

    /// The tensor that shows a fact, with its shape and its file; none if shapes do not show it. Of a fact
    /// with a value for each stage it is that of the first stage in which `other` has another value.
    pub fn evidence(&self, name: &str, other: Option<&Value>, file: &Checkpoint) -> Option<String> {
        let shown = self.shown_by().iter().filter(|(fact, _)| *fact == name);
        let patterns: Vec<&str> = shown.map(|(_, pattern)| *pattern).collect();
        // Networks of one family may show a fact in different places.
        let first = |pattern: &str| {
            let first = pattern.replace("{s}", "0").replace("{s+1}", "1");
            self.survey.plan.contains_key(&first.replace("{}", "0"))
        };
        let there = patterns.iter().find(|pattern| first(pattern));
        let pattern = *there.or(patterns.first())?;
        let facts = self.config.facts().ok()?;
        let stages = |value: Option<&Value>| value.and_then(Value::as_array).cloned();
        let (own, other) = (stages(facts.get(name)), stages(other));
        let (own, other) = (own.unwrap_or_default(), other.unwrap_or_default());
        let count = own.len().min(other.len());
        let stage = (0..count).find(|&stage| own[stage] != other[stage]);
        // Where one of them has more stages, the last of the file's shows that.
        let stage = stage.unwrap_or(own.len().saturating_sub(1));
        let place = pattern
            .replace("{s}", &stage.to_string())
            .replace("{s+1}", &(stage + 1).to_string());
        let numbered = |number: usize| place.replace("{}", &number.to_string());
        let known = |name: &String| self.survey.plan.contains_key(name);
        let place = if place.contains("{}") {
            let last = (0..).map(numbered).take_while(known).last();
            last.unwrap_or_else(|| numbered(0))
        } else {
            place
        };
        let path = file.path().display();
        let sources = self.survey.plan.get(&place).and_then(|own| own.first());
        Some(match sources {
            None => format!("{path} has no {place}"),
            Some(source) => {
                let shape = file.shape(&source.theirs).unwrap_or_default();
                format!("{} is {shape:?} in {path}", source.theirs)
            }
        })
    }
}

//! Decides between a configuration, the files beside its weights and its family's defaults.

use serde_json::{Value, json};

use super::{Fact, Facts, Published};
use crate::backbone::BackboneConfig;
use crate::error::{Error, Result};

/// What the fields of a configuration were written by.
#[derive(Clone, Copy)]
pub enum Stated<'a> {
    /// A person, in a YAML.
    Configuration,
    /// Recognition: they were derived from the shapes of weights.
    Shapes(Shown<'a>),
}

/// The facts that shapes show beside the fields of the configuration that was derived from them.
#[derive(Clone, Copy)]
pub struct Shown<'a> {
    /// The facts that they show, whether the configuration has them as fields or by its variant.
    pub facts: &'a [(&'static str, &'static str)],
    /// The tensor that shows a fact, given another value for it.
    pub evidence: &'a dyn Fn(&str, &Value) -> Option<String>,
}

/// A configuration completed by the facts beside its weights.
pub struct Resolved {
    /// The configuration.
    pub config: Box<dyn BackboneConfig>,
    /// What was followed, what is not known, and which field of the configuration wins over a file.
    pub remarks: Vec<String>,
    /// What was taken from files, as `name value`.
    pub followed: Vec<String>,
}

/// What shapes do not show. Loading compares the others anyway, so that a file that merely implies
/// them is not held against a configuration.
const HIDDEN: [&str; 4] = ["num_heads", "act_layer", "layer_norm_eps", "global_pool"];

/// Completes a configuration by what `published` states.
///
/// # Errors
/// [`Error::Config`] for a fact that contradicts the configuration, with both values, the path and the
/// file's field; [`Error::File`] for a fact that the family does not have.
pub fn resolve(
    config: &dyn BackboneConfig,
    published: &Published,
    stated_by: Stated<'_>,
) -> Result<Resolved> {
    let unreadable = |e: serde_json::Error| Error::config("backbone", e.to_string());
    let mut current = serde_json::to_value(config).map_err(unreadable)?;
    let mut stated = current.as_object().cloned().unwrap_or_default();
    stated.retain(|_, value| !value.is_null());
    if let Stated::Shapes(shown) = stated_by {
        if stated.get("num_heads").is_some_and(Value::is_number) {
            // A guess: shapes show the width of all heads together.
            stated.remove("num_heads");
        }
        // Neither are these shown by shapes: what they say follows from the names.
        stated.remove("act_layer");
        stated.remove("ref_feat_shape");
        if stated.get("rope_type").is_some_and(|kind| kind == "dinov3") {
            stated.remove("global_pool");
        }
        let facts = config.facts().unwrap_or_default();
        for (name, _) in shown.facts {
            if let Some(value) = facts.get(*name).filter(|value| !value.is_null()) {
                stated.entry(*name).or_insert(value.clone());
            }
        }
    }
    let mut remarks = Vec::new();
    let facts = ranked(config, published, &stated, &mut remarks)?;

    let mut open = Vec::new();
    for fact in &facts {
        match stated.get(&fact.name) {
            None => open.push(fact),
            Some(own) if same(&fact.name, own, &fact.value) => {}
            Some(own) => remarks.extend(contradiction(fact, own, stated_by)?),
        }
    }

    // One fact can change the default of another (timm's `fc_norm` follows `global_pool`), so this
    // goes on until nothing changes; each field is set once at most.
    let build = |value: &Value| serde_json::from_value::<Box<dyn BackboneConfig>>(value.clone());
    let mut config = build(&current).map_err(unreadable)?;
    let mut taken: Vec<&Fact> = Vec::new();
    loop {
        // Without sizes there are no defaults to compare with: then all facts are set.
        let defaults = config.facts().unwrap_or_default();
        let next = open.iter().find(|fact| {
            let default = defaults.get(&fact.name);
            config.has_field(&fact.name)
                && !taken.iter().any(|taken| taken.name == fact.name)
                && !default.is_some_and(|value| same(&fact.name, value, &fact.value))
        });
        let Some(fact) = next else {
            break;
        };
        current[&fact.name] = fact.value.clone();
        config = build(&current).map_err(|e| {
            let message = format!("{}: got {}: {e}", fact.field, fact.value);
            Error::file(&fact.path, message)
        })?;
        taken.push(fact);
    }

    // A fact that was followed may have changed the default of one that the shapes show.
    if let Stated::Shapes(shown) = stated_by {
        for (name, _) in shown.facts {
            let facts = config.facts().unwrap_or_default();
            let (Some(value), Some(own)) = (stated.get(*name), facts.get(*name)) else {
                continue;
            };
            if config.has_field(name) && !same(name, own, value) {
                current[*name] = value.clone();
                config = build(&current).map_err(unreadable)?;
            }
        }
    }

    let own = config.facts().unwrap_or_default();
    let mut unknown = Vec::new();
    for fact in open.iter().filter(|fact| !config.has_field(&fact.name)) {
        match own.get(&fact.name) {
            Some(value) if same(&fact.name, value, &fact.value) => {}
            Some(_) if fact.implied && !HIDDEN.contains(&&*fact.name) => {}
            Some(value) => {
                let (family, name, field) = (config.typetag_name(), &fact.name, &fact.field);
                let message = format!(
                    "{field}: expected {value}, the only {name} of a {family} here, got {}",
                    fact.value
                );
                return Err(Error::file(&fact.path, message));
            }
            None if !fact.implied => unknown.push(*fact),
            None => {}
        }
    }
    let followed = |fact: &Fact| match fact.name == fact.field {
        true => format!("{} {}", fact.name, fact.value),
        false => format!("{} {} ({})", fact.name, fact.value, fact.field),
    };
    remarks.extend(by_path(&taken, followed).into_iter().map(|(path, facts)| {
        format!("{path} states facts of the network that are followed: {facts}")
    }));
    let family = config.typetag_name();
    let as_written = |fact: &Fact| format!("{} {}", fact.field, fact.value);
    remarks.extend(by_path(&unknown, as_written).into_iter().map(|(path, facts)| {
        format!("{path} has fields that may change results and are not followed by {family}: {facts}")
    }));
    Ok(Resolved {
        followed: taken.into_iter().map(followed).collect(),
        config,
        remarks,
    })
}

/// The facts that count, one for each name: what files state, then what they imply.
fn ranked(
    config: &dyn BackboneConfig,
    published: &Published,
    stated: &Facts,
    remarks: &mut Vec<String>,
) -> Result<Vec<Fact>> {
    let mut facts: Vec<Fact> = Vec::new();
    let (implied, explicit): (Vec<&Fact>, Vec<&Fact>) =
        published.facts.iter().partition(|fact| fact.implied);
    let architecture = of_architecture(config, published, stated, remarks);
    for fact in explicit.into_iter().chain(implied).chain(&architecture) {
        match facts.iter().find(|first| first.name == fact.name) {
            None => facts.push(fact.clone()),
            Some(first) if same(&fact.name, &first.value, &fact.value) || fact.implied => {}
            Some(first) if first.path != fact.path && HIDDEN.contains(&&*fact.name) => {
                let message = format!(
                    "{}: got {}, but {} says {} ({})",
                    fact.field,
                    fact.value,
                    first.path.display(),
                    first.value,
                    first.field
                );
                return Err(Error::file(&fact.path, message));
            }
            Some(_) => {}
        }
    }
    Ok(facts)
}

/// What the name of timm's architecture implies: the row of the family's table.
fn of_architecture(
    config: &dyn BackboneConfig,
    published: &Published,
    stated: &Facts,
    remarks: &mut Vec<String>,
) -> Vec<Fact> {
    let Some(Fact {
        value: name,
        path,
        field,
        ..
    }) = &published.architecture
    else {
        return Vec::new();
    };
    let family = config.typetag_name();
    let build = |row: &Value| serde_json::from_value::<Box<dyn BackboneConfig>>(row.clone()).ok();
    let mut row = json!({"name": family, "variant": name});
    let built = build(&row).map(|mut built| {
        // timm builds the architecture with `model_args`, on which other defaults of the row depend: `fc_norm`
        // follows `global_pool`. A value that does not build is reported where it is followed.
        for fact in published.facts.iter().filter(|fact| !fact.implied) {
            let mut with = row.clone();
            with[&fact.name] = fact.value.clone();
            if let Some(next) = build(&with).filter(|_| config.has_field(&fact.name)) {
                (row, built) = (with, next);
            }
        }
        built
    });
    let Some(row) = built.and_then(|row| row.facts().ok()) else {
        remarks.push(format!(
            "{} names the architecture {name}, which is not a variant of {family} here: what the \
             name implies is not followed",
            path.display()
        ));
        return Vec::new();
    };
    // Where the configuration names a variant, that says the sizes.
    let sizes = !stated.contains_key("variant");
    row.into_iter()
        .filter(|(name, value)| !value.is_null() && (sizes || HIDDEN.contains(&&**name)))
        .map(|(name, value)| Fact {
            name,
            value,
            path: path.clone(),
            field: field.clone(),
            implied: true,
        })
        .collect()
}

/// A fact that differs from a field of the configuration: an error, or a remark where both are valid.
fn contradiction(fact: &Fact, own: &Value, stated_by: Stated<'_>) -> Result<Option<String>> {
    let Fact {
        name,
        value,
        path,
        field,
        implied,
    } = fact;
    let path = path.display();
    if name == "img_size" {
        let remark = format!(
            "img_size is {own}, as the configuration states; {path} says {value} ({field})"
        );
        let by_person = matches!(stated_by, Stated::Configuration);
        return Ok((by_person && !implied).then_some(remark));
    }
    if *implied && !HIDDEN.contains(&&**name) {
        return Ok(None);
    }
    let by = match stated_by {
        Stated::Configuration => format!("the configuration states {own}"),
        Stated::Shapes(shown) => {
            let evidence = (shown.evidence)(name, value).map(|evidence| format!(" ({evidence})"));
            let evidence = evidence.unwrap_or_default();
            format!("the shapes of the weights show {own}{evidence}")
        }
    };
    let message = format!("{by}, but {path} says {value} ({field}); expected them to agree");
    Err(Error::config(name.as_str(), message))
}

/// Whether two values of a fact are the same for the results.
pub(crate) fn same(name: &str, a: &Value, b: &Value) -> bool {
    match (name, a.as_f64(), b.as_f64()) {
        // Only what LayerScale starts with: the weights replace the value.
        ("init_values", Some(_), Some(_)) => true,
        // The same, where zero stands for blocks without it.
        ("ls_init_value", Some(a), Some(b)) => (a == 0.0) == (b == 0.0),
        // A ratio of whole widths, which some files write with few digits.
        ("mlp_ratio", Some(a), Some(b)) => (a - b).abs() <= 1e-3 * a.abs(),
        (_, Some(a), Some(b)) => a == b,
        _ => match (a, b) {
            (Value::Array(a), Value::Array(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same("", a, b))
            }
            _ => a == b,
        },
    }
}

/// Facts grouped by their file, in words.
fn by_path(facts: &[&Fact], words: impl Fn(&Fact) -> String) -> Vec<(String, String)> {
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for fact in facts {
        let path = fact.path.display().to_string();
        match groups.iter_mut().find(|(of, _)| *of == path) {
            Some((_, group)) => group.push(words(fact)),
            None => groups.push((path, vec![words(fact)])),
        }
    }
    groups
        .into_iter()
        .map(|(path, group)| (path, group.join(", ")))
        .collect()
}

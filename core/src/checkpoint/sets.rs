//! The sets of weights in a pickle: a training script may write averaged weights beside the raw ones,
//! and a teacher beside a student.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::pickle::Value;
use crate::error::listed;

/// A dictionary of a pickle, in the order of insertion.
type Dict = Rc<RefCell<Vec<(Value, Value)>>>;

/// The keys under which training scripts store weights, the first that is there first. The first four
/// are those of timm, in its order: averaged weights before raw ones.
const KEYS: [&str; 8] = [
    "state_dict_ema",
    "model_ema",
    "state_dict",
    "model",
    "model_state",
    "module",
    "teacher",
    "net",
];

/// How keys begin under which a training script stores what are not weights: the state of an optimiser
/// has tensors too.
const TRAINING: [&str; 5] = ["opt", "scheduler", "lr_scheduler", "scaler", "amp"];

/// How deep sets are looked for: `checkpoint.model.state_dict`.
const DEPTH: usize = 4;

/// A set of weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightsSet {
    /// Its key; keys of nested dictionaries are joined by dots. Empty for the whole file.
    pub key: String,
    /// Number of its tensors.
    pub tensors: usize,
}

/// The sets of weights in a file.
#[derive(Default)]
pub(super) struct Sets {
    found: Vec<(WeightsSet, Dict)>,
    chosen: usize,
}

impl Sets {
    /// Finds every dictionary that holds a tensor.
    pub(super) fn of(root: &Value) -> Self {
        let mut sets = Self::default();
        sets.search(root, "", DEPTH);
        sets
    }

    fn search(&mut self, value: &Value, key: &str, depth: usize) {
        let Value::Dict(dict) = value else { return };
        // The same dictionary may stand under two keys, and even in itself.
        if self.found.iter().any(|(_, own)| Rc::ptr_eq(own, dict)) {
            return;
        }
        let items = dict.borrow();
        let holds = |value: &Value| matches!(value, Value::Tensor(_) | Value::Unread(_));
        let tensors = items.iter().filter(|(_, value)| holds(value)).count();
        if tensors > 0 {
            let key = key.to_owned();
            self.found.push((WeightsSet { key, tensors }, dict.clone()));
        }
        for (name, inner) in items.iter().filter(|_| depth > 0) {
            let Some(name) = name.text() else { continue };
            let training = TRAINING.iter().any(|start| name.starts_with(start));
            if !training {
                let dot = if key.is_empty() { "" } else { "." };
                self.search(inner, &format!("{key}{dot}{name}"), depth - 1);
            }
        }
    }

    /// The set under `key`, or by the rule: the first of the usual keys that is there, or else the
    /// only set, or else the whole file.
    pub(super) fn choose(&mut self, key: Option<&str>) -> Result<Dict, String> {
        let Some(first) = self.found.first() else {
            return Err("it does not contain a state dict of tensors".to_owned());
        };
        let position = |key: &str| self.found.iter().position(|(set, _)| set.key == key);
        let below = |key: &str| {
            let inner = |set: &WeightsSet| set.key.split('.').next() == Some(key);
            let mut inner = (0..self.found.len()).filter(|i| inner(&self.found[*i].0));
            inner.next().filter(|_| inner.next().is_none())
        };
        let sizes: Vec<_> = self.found.iter().map(|(set, _)| set.tensors).collect();
        let whole = first.0.key.is_empty() && sizes.iter().all(|size| *size <= sizes[0]);
        let usual = || {
            KEYS.iter()
                .find_map(|key| position(key).or_else(|| below(key)))
        };
        let only = || {
            // A single tensor is a number beside the weights, such as the epoch, if another set has more.
            let mut large = (0..sizes.len()).filter(|i| sizes[*i] > 1);
            let one = large.next().filter(|_| large.next().is_none());
            one.or((whole || sizes.len() == 1).then_some(0))
        };
        let chosen = match key {
            Some(key) => position(key).ok_or_else(|| {
                let sets = self.listed();
                format!("it has no set of weights under the key {key:?}, but has {sets}")
            }),
            None => usual().or_else(only).ok_or_else(|| {
                let sets = self.listed();
                format!("expected one set of weights, or the key of one; it has {sets}")
            }),
        };
        self.chosen = chosen?;
        Ok(self.found[self.chosen].1.clone())
    }

    /// The keys of the whole file under which there is no set, with what they hold: the epoch, the state
    /// of an optimiser. Empty if the whole file is the chosen set.
    pub(super) fn beside(&self, root: &Value) -> BTreeMap<String, String> {
        let Value::Dict(items) = root else {
            return BTreeMap::new();
        };
        let (chosen, items) = (&self.found[self.chosen].0.key, items.borrow());
        let text = |(name, value): &(Value, Value)| Some((name.text()?.to_owned(), value.what()));
        let inside = |name: &str| {
            let mut keys = self.found.iter().map(|(set, _)| &set.key);
            keys.any(|key| key.split('.').next() == Some(name))
        };
        let all = items.iter().filter(|_| !chosen.is_empty()).filter_map(text);
        all.filter(|(name, _)| !inside(name)).collect()
    }

    /// The sets without their values, the chosen one first.
    pub(super) fn into_list(mut self) -> Vec<WeightsSet> {
        if !self.found.is_empty() {
            self.found[..=self.chosen].rotate_right(1);
        }
        self.found.into_iter().map(|(set, _)| set).collect()
    }

    fn listed(&self) -> String {
        let sets: Vec<_> = self.found.iter().map(|(set, _)| set.to_string()).collect();
        listed(&sets, 12)
    }
}

impl std::fmt::Display for WeightsSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let key = match &*self.key {
            "" => "the whole file",
            key => key,
        };
        let noun = if self.tensors == 1 {
            "tensor"
        } else {
            "tensors"
        };
        write!(f, "{key} ({} {noun})", self.tensors)
    }
}

#[cfg(test)]
mod tests {
    use super::super::pickle::TensorRef;
    use super::*;

    fn dict(items: Vec<(&str, Value)>) -> Value {
        let text = |(key, value): (&str, Value)| (Value::Text(key.to_owned()), value);
        Value::Dict(Rc::new(RefCell::new(items.into_iter().map(text).collect())))
    }

    fn weights(count: usize) -> Value {
        let tensor = Rc::new(TensorRef {
            storage: Rc::default(),
            kind: None,
            offset: 0,
            sizes: vec![1],
            strides: vec![1],
        });
        let names: Vec<_> = (0..count).map(|i| format!("w{i}")).collect();
        let tensors = names
            .iter()
            .map(|name| (&**name, Value::Tensor(tensor.clone())));
        dict(tensors.collect())
    }

    fn chosen(root: &Value, key: Option<&str>) -> Result<Vec<String>, String> {
        let mut sets = Sets::of(root);
        sets.choose(key)?;
        Ok(sets.into_list().iter().map(WeightsSet::to_string).collect())
    }

    #[test]
    fn the_set_is_chosen_as_timm_chooses_it() {
        let optimizer = || ("optimizer", dict(vec![("state", weights(9))]));
        for (root, expected) in [
            // timm, DeiT, torchvision's and MAE's scripts, Lightning, DINO, RT-DETR's EMA.
            (
                vec![
                    ("state_dict", weights(2)),
                    optimizer(),
                    ("state_dict_ema", weights(3)),
                ],
                "state_dict_ema",
            ),
            (
                vec![
                    ("model", weights(2)),
                    ("model_ema", weights(3)),
                    ("epoch", Value::Int(3)),
                ],
                "model_ema",
            ),
            (vec![("model", weights(2)), optimizer()], "model"),
            (
                vec![
                    ("state_dict", weights(2)),
                    ("callbacks", dict(vec![("best", weights(1))])),
                ],
                "state_dict",
            ),
            (
                vec![("student", weights(2)), ("teacher", weights(2))],
                "teacher",
            ),
            (
                vec![
                    ("ema", dict(vec![("module", weights(2))])),
                    ("model", weights(2)),
                ],
                "model",
            ),
            (
                vec![
                    ("model", dict(vec![("weights", weights(2))])),
                    ("ema", weights(2)),
                ],
                "model.weights",
            ),
            (vec![("params", weights(2)), optimizer()], "params"),
        ] {
            let root = dict(root);
            let sets = chosen(&root, None).unwrap();
            assert!(sets[0].starts_with(&format!("{expected} (")), "{sets:?}");
            assert_eq!(chosen(&root, Some(expected)).unwrap(), sets);
        }
        assert_eq!(
            chosen(&weights(4), None).unwrap(),
            ["the whole file (4 tensors)"]
        );
    }

    #[test]
    fn sets_that_no_rule_knows_are_listed() {
        let root = dict(vec![("raw", weights(2)), ("averaged", weights(3))]);
        let sets = "raw (2 tensors), averaged (3 tensors)";
        let error = chosen(&root, None).unwrap_err();
        assert_eq!(
            error,
            format!("expected one set of weights, or the key of one; it has {sets}")
        );
        let error = chosen(&root, Some("ema")).unwrap_err();
        assert!(
            error.ends_with(&format!("under the key \"ema\", but has {sets}")),
            "{error}"
        );
        assert_eq!(
            chosen(&root, Some("averaged")).unwrap()[0],
            "averaged (3 tensors)"
        );
        assert!(chosen(&dict(vec![]), None).is_err());
    }
}

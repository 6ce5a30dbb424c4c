//! Claims of the paper, and the verdicts on them.

use serde::Serialize;

/// The verdict of a study on a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The numbers agree with the claim.
    Holds,
    /// The numbers contradict the claim.
    DoesNotHold,
    /// The numbers allow both.
    Undecided,
    /// Weights or images are missing.
    NeedsData,
    /// The measurement needs a GPU.
    NeedsGpu,
    /// There is nothing to judge: the study was given raw tensors.
    None,
}

impl Verdict {
    /// The verdict on a statement that is either true or false.
    pub fn of(true_statement: bool) -> Self {
        if true_statement {
            Self::Holds
        } else {
            Self::DoesNotHold
        }
    }

    /// The verdict in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::DoesNotHold => "does not hold",
            Self::Undecided => "undecided",
            Self::NeedsData => "needs data",
            Self::NeedsGpu => "needs a GPU",
            Self::None => "nothing to judge",
        }
    }
}

/// A claim of the paper.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// Its name in results.
    pub id: &'static str,
    /// Its place in the paper.
    pub source: &'static str,
    /// The claim in words.
    pub claim: &'static str,
}

/// A claim with the verdict on it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judged {
    /// The claim's name; of a claim with several readings, with the reading after a slash.
    pub id: String,
    /// Its place in the paper.
    pub source: &'static str,
    /// The claim in words.
    pub claim: &'static str,
    /// The verdict.
    pub verdict: Verdict,
    /// The numbers that the verdict rests on.
    pub reason: String,
}

impl Claim {
    /// The claim with a verdict.
    pub fn judged(&self, (verdict, reason): (Verdict, String)) -> Judged {
        Judged {
            id: self.id.to_owned(),
            source: self.source,
            claim: self.claim,
            verdict,
            reason,
        }
    }

    /// One reading of the claim with a verdict.
    pub fn reading(&self, reading: &str, judgement: (Verdict, String)) -> Judged {
        Judged {
            id: format!("{}/{reading}", self.id),
            ..self.judged(judgement)
        }
    }
}

/// The same verdict on all of these claims.
pub fn all(claims: &[Claim], verdict: Verdict, reason: &str) -> Vec<Judged> {
    let judged = claims
        .iter()
        .map(|claim| claim.judged((verdict, reason.to_owned())));
    judged.collect()
}

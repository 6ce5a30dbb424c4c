//! The statistics of a comparison: spread, paired differences with bootstrap intervals, and ranks
//! over data sets with their tests.
//!
//! **The sampling unit is the data set.** A comparison over several data sets asks what would happen on
//! another data set, so the differences of one data set (one per seed, paired: same split, same order
//! of the batches, same initial head) are averaged first, and it is these averages that are resampled,
//! ranked and tested. Resampling whole clusters and keeping what is in them reproduces the variance of
//! nested data; resampling seeds as well would count the seeds' variance twice (Davison and Hinkley,
//! "Bootstrap Methods and their Application", 1997, section 3.8). Treating seeds as units of their own
//! would narrow every interval by pretending that there were more data sets. If a comparison has only
//! one data set, its seeds are the units, and the result concerns that data set alone.
//!
//! Sources: Demšar, "Statistical Comparisons of Classifiers over Multiple Data Sets" (2006) for ranks,
//! Friedman's test and Nemenyi's critical difference; Iman and Davenport, "Approximations of the
//! critical region of the Friedman statistic" (1980); Benavoli, Corani and Mangili, "Should We Really
//! Use Post-Hoc Tests Based on Mean-Ranks?" (2016) for Wilcoxon's signed-rank test against a baseline,
//! with Holm's correction (1979); Efron, "Better Bootstrap Confidence Intervals" (1987) for BCa.

pub mod intervals;
pub mod moments;
pub mod paired;
pub mod ranks;

#[cfg(test)]
mod tests;

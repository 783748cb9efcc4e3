//! "Did you mean": the known word closest to a mistyped one.

/// The candidate closest to `word`, if it is close enough to be a slip: at most a third of the word's letters differ
/// (but always one, and at most three). Case counts for nothing; ties go to the first candidate.
pub fn suggest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let allowed = (word.chars().count() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .map(|c| (distance(&word, &c.to_lowercase()), c))
        .filter(|(d, _)| *d <= allowed)
        .min_by_key(|(d, _)| *d)
        .map(|(_, c)| c)
}

/// Levenshtein distance where swapping two neighbours costs one edit.
pub fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let substitution = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = substitution.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_strangers_are_not() {
        let known = [
            "containers",
            "volumes",
            "nodeName",
            "initContainers",
            "replicas",
        ];
        for (word, want) in [
            ("contaners", Some("containers")),
            ("containres", Some("containers")),
            ("nodename", Some("nodeName")),
            ("replcas", Some("replicas")),
            ("replica", Some("replicas")),
            ("colour", None),
            ("x", None),
        ] {
            assert_eq!(suggest(word, known), want, "{word}");
        }
    }

    #[test]
    fn distances_count_edits() {
        for (a, b, want) in [
            ("", "", 0),
            ("a", "", 1),
            ("kitten", "sitting", 3),
            ("ab", "ba", 1),
        ] {
            assert_eq!(distance(a, b), want, "{a} {b}");
        }
    }
}

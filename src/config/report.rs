//! Problems of a configuration, with file, line, column, the line itself and the cure, and how a person reads them.
//! Masks nothing itself: lines arrive here with their secrets already masked.

use std::fmt::Write as _;

use serde::Serialize;

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// File, relative to the config directory where it is inside.
    pub file: String,
    /// 1-based; 0 when the file as a whole is meant.
    pub line: usize,
    /// 1-based.
    pub column: usize,
    /// What is wrong and what would be right; never a secret.
    pub message: String,
    /// The offending line with secrets masked; not part of the API's shape.
    #[serde(skip)]
    pub source_line: Option<String>,
    /// What to write instead.
    #[serde(skip)]
    pub help: Option<String>,
    /// Where `source_line` is marked: characters before the mark, and its length.
    #[serde(skip)]
    pub mark: Option<(usize, usize)>,
}

impl Problem {
    /// A problem of a whole file, or of something that has no place in one.
    #[must_use]
    pub fn of_file(file: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            file: file.into(),
            line: 0,
            column: 0,
            message: message.into(),
            source_line: None,
            help: None,
            mark: None,
        }
    }

    /// Adds what to write instead.
    #[must_use]
    pub fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Replaces what would change how a terminal shows the rest: control characters, and those that turn the direction.
    pub(super) fn make_printable(&mut self) {
        let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        let bad = |c: char| (c.is_control() && c != '\t' && c != '\n') || turns(c);
        let texts = [Some(&mut self.file), Some(&mut self.message), self.source_line.as_mut(), self.help.as_mut()];
        for text in texts.into_iter().flatten() {
            if text.contains(bad) {
                *text = text.chars().map(|c| if bad(c) { '\u{fffd}' } else { c }).collect();
            }
        }
    }

    /// `file`, `file:line` or `file:line:column`.
    #[must_use]
    pub fn place(&self) -> String {
        match (self.line, self.column) {
            (0, _) => self.file.clone(),
            (line, 0) => format!("{}:{line}", self.file),
            (line, column) => format!("{}:{line}:{column}", self.file),
        }
    }
}

/// `place: message`, on one line.
impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.place(), self.message)?;
        if let Some(help) = &self.help {
            write!(f, " (help: {help})")?;
        }
        Ok(())
    }
}

/// All problems of one load.
#[derive(Debug, Clone, PartialEq, Eq, Default, thiserror::Error)]
#[error("{} in the configuration", count(problems.len() + omitted))]
pub struct Report {
    /// In order of file, line, column.
    pub problems: Vec<Problem>,
    /// Problems beyond the limit, which are only counted.
    pub omitted: usize,
}

impl From<Problem> for Report {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem], omitted: 0 }
    }
}

/// `1 problem`, `2 problems`.
fn count(n: usize) -> String {
    if n == 1 { "1 problem".to_owned() } else { format!("{n} problems") }
}

/// The shape of `check --json`.
#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    problem: &'a Problem,
    #[serde(rename = "source")]
    source_line: Option<&'a str>,
    help: Option<&'a str>,
}

impl Report {
    /// The problems as a person reads them: each with its place, the line, a mark under it and the cure. `color` is
    /// for terminals.
    #[must_use]
    pub fn render(&self, color: bool) -> String {
        let paint = Paint { color };
        let mut out = String::new();
        for problem in &self.problems {
            render_one(&mut out, problem, &paint);
            out.push('\n');
        }
        let _ = writeln!(out, "{}", paint.bold(&self.to_string()));
        out
    }

    /// `[{"file","line","column","message","source","help"}]`, the line's secrets masked.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let rows = self.problems.iter().map(|problem| Row {
            problem,
            source_line: problem.source_line.as_deref(),
            help: problem.help.as_deref(),
        });
        serde_json::to_value(rows.collect::<Vec<_>>()).unwrap_or_default()
    }
}

fn render_one(out: &mut String, problem: &Problem, paint: &Paint) {
    let _ = writeln!(out, "{}{}", paint.red("error: "), paint.bold(&problem.message));
    let number = if problem.line == 0 { String::new() } else { problem.line.to_string() };
    let pad = " ".repeat(number.len().max(1));
    let _ = writeln!(out, "{pad}{} {}", paint.blue("-->"), problem.place());
    if let Some(line) = &problem.source_line {
        let bar = paint.blue("|");
        let _ = writeln!(out, "{pad} {bar}");
        let _ = writeln!(out, "{} {bar} {line}", paint.blue(&number));
        if let Some((before, width)) = problem.mark {
            // A tab takes as many columns below the line as in it.
            let gap: String = line.chars().take(before).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            let _ = writeln!(out, "{pad} {bar} {gap}{}", paint.red(&"^".repeat(width.max(1))));
        }
    }
    if let Some(help) = &problem.help {
        let mut lines = help.lines();
        let _ = writeln!(out, "{pad} {} {}", paint.blue("= help:"), lines.next().unwrap_or_default());
        for line in lines {
            let _ = writeln!(out, "{pad}         {line}");
        }
    }
}

/// Colours for a terminal, or none.
struct Paint {
    color: bool,
}

impl Paint {
    fn wrap(&self, code: &str, text: &str) -> String {
        if self.color { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    fn red(&self, text: &str) -> String {
        self.wrap("1;31", text)
    }

    fn blue(&self, text: &str) -> String {
        self.wrap("1;34", text)
    }

    fn bold(&self, text: &str) -> String {
        self.wrap("1", text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_move_a_terminal_is_replaced() {
        let mut problem = Problem::of_file("a.yaml", "\u{1b}[31mred\u{202e}").with_help("tab\tstays");
        problem.make_printable();
        assert_eq!(
            (problem.message.as_str(), problem.help.as_deref()),
            ("\u{fffd}[31mred\u{fffd}", Some("tab\tstays"))
        );
    }

    #[test]
    fn a_problem_reads_like_a_compiler_error() {
        let mut problem =
            Problem::of_file("sidehook.yaml", "unknown key `timeuot`").with_help("did you mean `timeout`?");
        problem.line = 12;
        problem.column = 3;
        problem.source_line = Some("  timeuot: 15s".to_owned());
        problem.mark = Some((2, 7));
        let report = Report { problems: vec![problem], omitted: 0 };
        insta::assert_snapshot!(report.render(false), @r"
        error: unknown key `timeuot`
          --> sidehook.yaml:12:3
           |
        12 |   timeuot: 15s
           |   ^^^^^^^
           = help: did you mean `timeout`?

        1 problem in the configuration
        ");
        assert!(report.render(true).contains("\u{1b}[1;31merror: "));
        assert_eq!(report.to_json()[0]["help"], "did you mean `timeout`?");
        assert_eq!(report.to_json()[0]["source"], "  timeuot: 15s");
    }
}

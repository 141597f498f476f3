//! `status --watch`: the sweep in a terminal, drawn anew every second and at each key.
//!
//! [`View`] is what is shown and knows no terminal: tests draw it into a buffer. [`watch`] owns the terminal, and gives it
//! back as it was, also after a panic.

use std::collections::HashMap;
use std::io::{self, Write};
use std::panic;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ratatui::backend::TermionBackend;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table, TableState, Wrap};
use ratatui::{Frame, Terminal, termion};

use ratatui::termion::event::Key;
use ratatui::termion::input::TermRead;
use ratatui::termion::raw::{IntoRawMode, RawTerminal};
use ratatui::termion::screen::{ToAlternateScreen, ToMainScreen};

use super::{RunStatus, Stage, Sweep, counts, curve};
use crate::cost::duration;

/// Between two looks at the folders.
const EVERY: Duration = Duration::from_secs(1);

/// Characters of a loss curve.
const CURVE: usize = 12;

/// What is on the screen.
pub struct View {
    title: String,
    /// Seconds that a run will take, by label, where that is known.
    costs: HashMap<String, f64>,
    colour: bool,
    runs: Vec<RunStatus>,
    failures_only: bool,
    table: TableState,
}

impl View {
    pub fn new(title: String, costs: HashMap<String, f64>, colour: bool) -> Self {
        View {
            title,
            costs,
            colour,
            runs: Vec::new(),
            failures_only: false,
            table: TableState::default().with_selected(0),
        }
    }

    /// Takes what a look found.
    pub fn set(&mut self, runs: Vec<RunStatus>) {
        self.runs = runs;
    }

    fn shown(&self) -> Vec<&RunStatus> {
        self.runs
            .iter()
            .filter(|run| !self.failures_only || run.stage.needs_attention())
            .collect()
    }

    /// Does what a key says; `false`: leave.
    pub fn key(&mut self, key: Key) -> bool {
        match key {
            Key::Char('q') | Key::Esc | Key::Ctrl('c') => return false,
            Key::Up | Key::Char('k') => self.table.select_previous(),
            Key::Down | Key::Char('j') => self.table.select_next(),
            Key::PageUp => self.table.scroll_up_by(10),
            Key::PageDown => self.table.scroll_down_by(10),
            Key::Home => self.table.select_first(),
            Key::End => self.table.select_last(),
            Key::Char('f') => {
                self.failures_only = !self.failures_only;
                self.table.select(Some(0));
            }
            _ => {}
        }
        true
    }

    fn style(&self, stage: Stage) -> Style {
        let colour = match stage {
            Stage::Running => Color::Cyan,
            Stage::Done => Color::Green,
            Stage::Failed | Stage::Broken => Color::Red,
            Stage::Diverged => Color::Yellow,
            Stage::ToDo | Stage::Interrupted => return Style::new(),
        };
        match self.colour {
            true => Style::new().fg(colour),
            false => Style::new(),
        }
    }

    /// Draws all of it.
    pub fn draw(&mut self, frame: &mut Frame) {
        let [head, body, detail, foot] = Layout::vertical([
            Constraint::Length(3),
            Constraint::Min(3),
            Constraint::Length(4),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(self.head(), head);
        self.draw_table(frame, body);
        let selected = self.table.selected().unwrap_or(0);
        let shown = self.shown();
        if let Some(run) = shown.get(selected).or(shown.last()) {
            frame.render_widget(about(run), detail);
        }
        let filter = match self.failures_only {
            true => "f all runs",
            false => "f failures only",
        };
        frame.render_widget(Line::from(format!("q quit   ↑ ↓ choose   {filter}")), foot);
    }

    fn head(&self) -> Paragraph<'_> {
        let mut spans = vec![Span::from(format!("{} runs: ", self.runs.len()))];
        for (i, (stage, n)) in counts(&self.runs).into_iter().enumerate() {
            spans.push(Span::from(if i > 0 { ", " } else { "" }));
            spans.push(Span::styled(
                format!("{n} {}", stage.name()),
                self.style(stage),
            ));
        }
        let (seconds, unknown) = left(&self.runs, &self.costs);
        if seconds > 0.0 {
            let known = if unknown > 0 { "more than " } else { "about " };
            spans.push(Span::from(format!("; {known}{} left", duration(seconds))));
        }
        let title = Line::from(self.title.as_str()).style(Modifier::BOLD);
        Paragraph::new(vec![title, Line::from(spans)]).wrap(Wrap { trim: true })
    }

    fn draw_table(&mut self, frame: &mut Frame, area: Rect) {
        let rows: Vec<Row> = self
            .shown()
            .into_iter()
            .map(|run| {
                let text = |value: Option<String>| Cell::from(value.unwrap_or_default());
                Row::new([
                    Cell::from(run.label.clone()),
                    Cell::from(stage_text(run)).style(self.style(run.stage)),
                    text(steps_text(run)),
                    text(run.loss.map(|loss| format!("{loss:.4}"))),
                    Cell::from(curve::line(&run.losses, CURVE)),
                    text(run.tokens_per_second.map(|rate| format!("{rate:.0}"))),
                    text(run.seconds_left.map(duration)),
                ])
            })
            .collect();
        let empty = rows.is_empty();
        let widths = [
            Constraint::Min(18),
            Constraint::Length(11),
            Constraint::Length(11),
            Constraint::Length(7),
            Constraint::Length(CURVE as u16),
            Constraint::Length(6),
            Constraint::Length(10),
        ];
        let heading =
            Row::new(["Run", "State", "Step", "Loss", "", "tok/s", "Left"]).style(Modifier::BOLD);
        let table = Table::new(rows, widths)
            .header(heading)
            .highlight_symbol("> ")
            .row_highlight_style(Modifier::BOLD);
        frame.render_stateful_widget(table, area, &mut self.table);
        if empty && area.height > 1 {
            let line = Rect {
                y: area.y + 1,
                height: 1,
                ..area
            };
            frame.render_widget(Line::from("  no failures"), line);
        }
    }
}

fn stage_text(run: &RunStatus) -> String {
    match (&run.answered, run.stage) {
        (Some(_), Stage::Running) => "scoring".into(),
        _ => run.stage.name().into(),
    }
}

/// `40/300`, or the answers so far.
fn steps_text(run: &RunStatus) -> Option<String> {
    if let (Some((_, n)), Stage::Running) = (&run.answered, run.stage) {
        return Some(format!("{n} answers"));
    }
    match (run.step, run.steps) {
        (0, _) if run.stage != Stage::Running => None,
        (0, None | Some(0)) => None,
        (step, Some(steps)) => Some(format!("{step}/{steps}")),
        (step, None) => Some(format!("{step}/?")),
    }
}

/// The chosen run in sentences.
fn about(run: &RunStatus) -> Paragraph<'_> {
    let mut lines = vec![Line::from(run.folder.as_str()).style(Modifier::BOLD)];
    let mut facts = Vec::new();
    if let Some(holder) = &run.holder {
        facts.push(holder.clone());
    }
    if let Some(seconds) = run.silent_seconds {
        facts.push(format!("last written {} ago", duration(seconds as f64)));
    }
    if let Some((task, _)) = &run.answered {
        facts.push(format!("scoring {task}"));
    }
    if let Some(loss) = run.held_out_loss {
        facts.push(format!("held-out loss {loss:.4}"));
    }
    if !facts.is_empty() {
        lines.push(Line::from(facts.join("; ")));
    }
    if let Some(reason) = &run.reason {
        lines.push(Line::from(reason.as_str()));
    }
    Paragraph::new(lines).wrap(Wrap { trim: true })
}

/// Seconds until all is done with as many at once as run now, and the runs whose time is unknown.
pub fn left(runs: &[RunStatus], costs: &HashMap<String, f64>) -> (f64, usize) {
    let (mut seconds, mut unknown, mut running) = (0.0, 0, 0);
    for run in runs {
        let known = match run.stage {
            Stage::Running => {
                running += 1;
                run.seconds_left
            }
            Stage::Done | Stage::Diverged => continue,
            _ => costs.get(&run.label).copied(),
        };
        match known {
            Some(known) => seconds += known,
            None => unknown += 1,
        }
    }
    (seconds / f64::from(running.max(1)), unknown)
}

/// The terminal, taken; dropping gives it back.
struct Screen {
    raw: Arc<Mutex<Option<RawTerminal<io::Stdout>>>>,
}

/// Leaves raw mode and the other screen, once.
fn restore(raw: &Mutex<Option<RawTerminal<io::Stdout>>>) {
    let taken = raw.lock().map_or(None, |mut raw| raw.take());
    if let Some(mut raw) = taken {
        let _ = write!(raw, "{ToMainScreen}{}", termion::cursor::Show);
        let _ = raw.flush();
        let _ = raw.suspend_raw_mode();
    }
}

impl Screen {
    fn take() -> io::Result<Self> {
        let mut raw = io::stdout().into_raw_mode()?;
        write!(raw, "{ToAlternateScreen}")?;
        raw.flush()?;
        let raw = Arc::new(Mutex::new(Some(raw)));
        // The text of a panic would go to the other screen and vanish with it.
        let (held, before) = (raw.clone(), panic::take_hook());
        panic::set_hook(Box::new(move |info| {
            restore(&held);
            before(info);
        }));
        Ok(Screen { raw })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore(&self.raw);
    }
}

/// Shows `sweep` until the user leaves.
///
/// # Errors
/// The terminal cannot be read or written.
pub fn watch(mut sweep: Sweep, costs: HashMap<String, f64>, colour: bool) -> io::Result<()> {
    let mut view = View::new(
        format!("{}: {}", sweep.experiment, sweep.title),
        costs,
        colour,
    );
    let _screen = Screen::take()?;
    let mut terminal = Terminal::new(TermionBackend::new(io::stdout()))?;
    let (sender, keys) = channel();
    // It ends with the process: a read of the terminal cannot be called off.
    std::thread::spawn(move || {
        for key in io::stdin().keys().map_while(Result::ok) {
            if sender.send(key).is_err() {
                return;
            }
        }
    });
    loop {
        view.set(sweep.look());
        let next = Instant::now() + EVERY;
        loop {
            terminal.draw(|frame| view.draw(frame))?;
            match keys.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(key) if view.key(key) => {}
                Err(RecvTimeoutError::Timeout) => break,
                // The user leaves, or the terminal is gone.
                Ok(_) | Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::backend::TestBackend;

    fn run(label: &str, stage: Stage) -> RunStatus {
        RunStatus {
            label: label.into(),
            hash: "0123456789abcdef".into(),
            folder: format!("{label}-01234567"),
            stage,
            reason: None,
            holder: None,
            answered: None,
            step: 0,
            steps: Some(300),
            loss: None,
            held_out_loss: None,
            tokens_per_second: None,
            seconds_left: None,
            silent_seconds: None,
            losses: Vec::new(),
        }
    }

    fn runs() -> Vec<RunStatus> {
        let done = RunStatus {
            step: 300,
            loss: Some(0.6719),
            tokens_per_second: Some(342.35),
            losses: (0..300).map(|i| 1.0 / f64::from(i + 10)).collect(),
            ..run("lora-seed0", Stage::Done)
        };
        let running = RunStatus {
            step: 120,
            loss: Some(0.81234),
            held_out_loss: Some(0.7),
            tokens_per_second: Some(310.0),
            seconds_left: Some(840.0),
            holder: Some("process 12 on node3".into()),
            silent_seconds: Some(4),
            losses: vec![1.5, 1.2, 1.0, 0.9, 0.8],
            ..run("share_a-seed0", Stage::Running)
        };
        let scoring = RunStatus {
            steps: Some(0),
            answered: Some(("gsm8k".into(), 40)),
            holder: Some("process 13 on node3".into()),
            ..run("base", Stage::Running)
        };
        let failed = RunStatus {
            reason: Some(
                "cannot read models/tiny/model.safetensors: the header says more tensors than the file has bytes"
                    .into(),
            ),
            ..run("share_b-seed0", Stage::Failed)
        };
        let diverged = RunStatus {
            step: 17,
            reason: Some("step 18: loss NaN, gradient norm NaN".into()),
            ..run("share_ab-seed0", Stage::Diverged)
        };
        vec![
            scoring,
            done,
            running,
            failed,
            diverged,
            run("lora-seed1", Stage::ToDo),
        ]
    }

    fn drawn(view: &mut View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        let text = terminal.backend().to_string();
        let lines = text.lines().map(|line| line.trim_matches('"').trim_end());
        lines.collect::<Vec<_>>().join("\n")
    }

    /// The smallest terminal that is usual.
    #[test]
    fn all_of_it_fits_80_by_24() {
        let costs = HashMap::from([
            ("lora-seed1".into(), 1_500.0),
            ("share_b-seed0".into(), 1_500.0),
        ]);
        let mut view = View::new("smollm2-gsm8k: SmolLM2 on GSM8K".into(), costs, false);
        view.set(runs());
        view.key(Key::Down);
        view.key(Key::Down);
        insta::assert_snapshot!(drawn(&mut view, 80, 24), @"
        smollm2-gsm8k: SmolLM2 on GSM8K
        6 runs: 1 done, 2 running, 1 to do, 1 diverged, 1 failed; more than 32 min left

          Run                State       Step        Loss              tok/s  Left
          base               scoring     40 answers
          lora-seed0         done        300/300     0.6719  █▄▃▂▂▂▁▁▁ 342
        > share_a-seed0      running     120/300     0.8123  █▅▃▂▁     310    14 min
          share_b-seed0      failed
          share_ab-seed0     diverged    17/300
          lora-seed1         to do









        share_a-seed0-01234567
        process 12 on node3; last written 4 s ago; held-out loss 0.7000


        q quit   ↑ ↓ choose   f failures only
        ");
    }

    #[test]
    fn failures_say_why() {
        let mut view = View::new("smollm2-gsm8k".into(), HashMap::new(), false);
        view.set(runs());
        view.key(Key::Char('f'));
        insta::assert_snapshot!(drawn(&mut view, 80, 14), @"
        smollm2-gsm8k
        6 runs: 1 done, 2 running, 1 to do, 1 diverged, 1 failed; more than 7 min left

          Run                State       Step        Loss              tok/s  Left
        > share_b-seed0      failed
          share_ab-seed0     diverged    17/300



        share_b-seed0-01234567
        cannot read models/tiny/model.safetensors: the header says more tensors than the
        file has bytes

        q quit   ↑ ↓ choose   f all runs
        ");
        view.key(Key::Char('f'));
        view.set(vec![run("lora-seed0", Stage::Done)]);
        view.key(Key::Char('f'));
        assert!(drawn(&mut view, 80, 14).contains("no failures"));
    }

    /// With NO_COLOR no cell has a colour; without it failures have one.
    #[test]
    fn colours_can_be_refused() {
        let coloured = |colour: bool| {
            let mut view = View::new("x".into(), HashMap::new(), colour);
            view.set(runs());
            let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
            terminal.draw(|frame| view.draw(frame)).unwrap();
            let cells = terminal.backend().buffer().content();
            cells.iter().filter(|cell| cell.fg != Color::Reset).count()
        };
        assert_eq!(coloured(false), 0);
        assert!(coloured(true) > 0);
    }

    /// However small the terminal and however far the choice: no panic.
    #[test]
    fn any_size_can_be_drawn() {
        for (width, height) in [(1, 1), (10, 3), (40, 9), (200, 50)] {
            let mut view = View::new("x".into(), HashMap::new(), true);
            drawn(&mut view, width, height);
            view.set(runs());
            for key in [
                Key::End,
                Key::Down,
                Key::PageDown,
                Key::Up,
                Key::PageUp,
                Key::Home,
            ] {
                assert!(view.key(key));
                drawn(&mut view, width, height);
            }
            assert!(!view.key(Key::Char('q')));
        }
    }

    #[test]
    fn the_time_left_is_shared_by_those_that_run() {
        let costs = HashMap::from([("lora-seed1".into(), 160.0)]);
        // Scoring and the failed run are unknown.
        assert_eq!(left(&runs(), &costs), (500.0, 2));
    }
}

//! The screen: what [`App`] says, drawn into whatever room there is.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use super::app::App;
use super::table::{Row, Table, Tone, is_word, placed};

/// Whether tones are told by colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paint {
    Colours,
    /// As NO_COLOR asks: bold and dim alone.
    Plain,
}

const HELP: [&str; 14] = [
    "up down j k   move",
    "PgUp PgDn g G move far",
    "Tab           topics, nodes, services",
    "Enter         look into it",
    "Esc           back",
    "s             next order",
    "S             reverse it",
    "/             filter names",
    "p             pause",
    "q             quit",
    "",
    "P50 P99 MAX   how long it took lately",
    "- is not known yet, or not here",
    "any key goes back",
];

/// Draws it all. The rows have the room first, then the status, the columns' names, the title.
pub(crate) fn draw(frame: &mut Frame<'_>, app: &mut App, paint: Paint) {
    let area = frame.area();
    if area.is_empty() {
        return;
    }
    if app.is_helping {
        let lines = HELP.iter().map(|line| Line::raw(*line));
        return put(frame, area, 0, lines);
    }
    let has = |rows: u16| area.height >= rows;
    let title_rows = u16::from(has(4));
    let header_rows = u16::from(has(3));
    let status_rows = u16::from(has(2));
    let table = app.table();
    let widths = table.widths(area.width.into());
    if has(4) {
        let title = Line::styled(app.title(), Modifier::BOLD);
        put(frame, area, 0, [title]);
    }
    if has(3) {
        put(frame, area, title_rows, [header(&table, app, &widths)]);
    }
    let rows = usize::from(area.height - title_rows - header_rows - status_rows);
    app.page_rows = rows.max(1);
    let selected = app.selection(&table);
    // The selected row is seen; the last page is full.
    let first = selected.map_or(0, |at| (at + 1).saturating_sub(rows));
    let lines = table.rows.iter().enumerate().skip(first).take(rows);
    let lines = lines.map(|(idx, row)| line(&table, row, &widths, selected == Some(idx), paint));
    put(frame, area, title_rows + header_rows, lines);
    if table.rows.is_empty() {
        let nothing = Line::raw("nothing to see");
        put(frame, area, title_rows + header_rows, [nothing]);
    }
    if has(2) {
        put(frame, area, area.height - 1, [Line::raw(status(app))]);
    }
}

/// Puts lines there, one below the other, as far as there is room.
fn put<'a>(frame: &mut Frame<'_>, area: Rect, top: u16, lines: impl IntoIterator<Item = Line<'a>>) {
    for (y, line) in (top..area.height).zip(lines) {
        let place = Rect {
            x: area.x,
            y: area.y + y,
            width: area.width,
            height: 1,
        };
        frame.render_widget(line, place);
    }
}

fn header(table: &Table, app: &App, widths: &[usize]) -> Line<'static> {
    let order = app.order();
    let columns = widths.iter().zip(table.columns).enumerate();
    let titles = columns.map(|(idx, (width, title))| {
        let mark = match (idx == order.column, order.is_reversed) {
            (true, false) => "v",
            (true, true) => "^",
            (false, _) => "",
        };
        placed(&format!("{title}{mark}"), idx, is_word(title), *width)
    });
    let titles: Vec<String> = titles.collect();
    Line::styled(titles.join(" "), Modifier::UNDERLINED)
}

fn line(
    table: &Table,
    row: &Row,
    widths: &[usize],
    is_selected: bool,
    paint: Paint,
) -> Line<'static> {
    let mut spans = Vec::new();
    for (idx, (width, cell)) in widths.iter().zip(&row.cells).enumerate() {
        if idx > 0 {
            spans.push(Span::raw(" "));
        }
        let text = placed(&cell.text, idx, is_word(table.columns[idx]), *width);
        spans.push(Span::styled(text, style(cell.tone, paint)));
    }
    let line = Line::from(spans);
    if is_selected {
        line.style(Modifier::REVERSED)
    } else {
        line
    }
}

fn style(tone: Tone, paint: Paint) -> Style {
    let style = Style::new();
    match (tone, paint) {
        (Tone::Plain, _) => style,
        (Tone::Dim, _) => style.add_modifier(Modifier::DIM),
        (Tone::Bad, Paint::Colours) => style.fg(Color::Red).add_modifier(Modifier::BOLD),
        (Tone::Warn, Paint::Colours) => style.fg(Color::Yellow),
        (Tone::Bad | Tone::Warn, Paint::Plain) => style.add_modifier(Modifier::BOLD),
    }
}

fn status(app: &App) -> String {
    let mut parts = Vec::new();
    if app.is_typing {
        parts.push(format!("/{}_", crate::name::escaped(&app.filter)));
    } else if !app.filter.is_empty() {
        parts.push(format!("/{}", crate::name::escaped(&app.filter)));
    }
    if app.is_paused {
        parts.push("PAUSED".into());
    }
    parts.extend(app.coordinator.clone());
    if parts.is_empty() {
        parts.push("? help  q quit  Tab topics/nodes/services  Enter look into".into());
    }
    parts.join("  ")
}

#[cfg(test)]
mod tests;

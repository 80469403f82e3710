/// Rows under headings, each column as wide as it needs to be.
struct Table {
    private let headings: [String]
    private var rows: [[String]] = []

    init(_ headings: String...) {
        self.headings = headings
    }

    mutating func add(_ cells: String...) {
        rows.append(cells)
    }

    /// The table's lines; columns that hold only numbers are aligned to the right.
    var lines: [String] {
        let columns = headings.indices.map { index in
            rows.map { index < $0.count ? $0[index] : "" }
        }
        let widths = zip(headings, columns).map { heading, cells in
            cells.reduce(heading.count) { max($0, $1.count) }
        }
        let areNumbers = columns.map { cells in
            !cells.isEmpty && cells.allSatisfy { Int64($0) != nil || $0 == "-" }
        }
        return ([headings] + rows).map { row in
            var line = ""
            for (index, cell) in row.enumerated() where index < widths.count {
                let padding = String(repeating: " ", count: max(0, widths[index] - cell.count))
                line += areNumbers[index] ? padding + cell : cell + padding
                line += "  "
            }
            while line.last == " " { line.removeLast() }
            return line
        }
    }
}

/// A table for people, or JSON for programs.
func printResult(_ format: OutputFormat, json: JSONValue, text: @autoclosure () -> [String]) {
    switch format {
    case .text: print(text().joined(separator: "\n"))
    case .json: print(json.text(isIndented: true))
    }
}

/// The known name with the fewest letters to change; the first by name among equals.
func nearest(to name: String, among known: some Sequence<String>) -> String? {
    known.map { (editDistance(from: name, to: $0), $0) }.min { $0 < $1 }?.1
}

/// Levenshtein's distance.
///
/// Only the first 300 letters count: names come from anyone.
private func editDistance(from source: String, to target: String) -> Int {
    let source = Array(source.utf8.prefix(300))
    let target = Array(target.utf8.prefix(300))
    var row = Array(0...target.count)
    for (line, letter) in source.enumerated() {
        var diagonal = row[0]
        row[0] = line + 1
        for column in target.indices {
            let above = row[column + 1]
            let substitution = diagonal + (letter == target[column] ? 0 : 1)
            row[column + 1] = min(substitution, above + 1, row[column] + 1)
            diagonal = above
        }
    }
    return row[target.count]
}

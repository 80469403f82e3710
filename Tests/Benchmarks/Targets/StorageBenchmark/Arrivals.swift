internal import Foundation
internal import Glibc

/// What threads hand to another one, which waits for it.
final class Arrivals<Element: Sendable>: @unchecked Sendable {
    // `elements` is only touched with `condition` locked.
    private let condition = NSCondition()
    private var elements: [Element] = []

    func add(_ element: Element) {
        condition.lock()
        elements.append(element)
        if elements.count == 1 { condition.signal() }
        condition.unlock()
    }

    /// All that has arrived, at least one.
    func take() -> [Element] {
        condition.lock()
        defer { condition.unlock() }
        while elements.isEmpty { condition.wait() }
        defer { elements = [] }
        return elements
    }
}

internal import NIOCore

/// Something that must end by a moment.
protocol Expiring: AnyObject {
    var deadline: NIODeadline? { get }
    /// Where it stands in its queue; -1 outside.
    var deadlineIndex: Int { get set }
    func expire()
}

/// The deadlines of one connection's calls, behind one timer.
///
/// Most calls end long before their deadline, so adding and removing cost next to nothing: the timer
/// is armed for the earliest deadline seen, and looks through all of them when it fires. The timer
/// keeps the queue alive until `cancelAll`.
final class DeadlineQueue: @unchecked Sendable {
    // All state is touched on `eventLoop` only.
    private let eventLoop: any EventLoop
    private var waiting: [any Expiring] = []
    private var armedFor: NIODeadline?
    private var timer: Scheduled<Void>?
    /// Deadlines are met to within this, which bounds how often all are looked through.
    private static let resolution = TimeAmount.milliseconds(5)

    init(eventLoop: any EventLoop) {
        self.eventLoop = eventLoop
    }

    func add(_ item: any Expiring) {
        guard let deadline = item.deadline else { return }
        item.deadlineIndex = waiting.count
        waiting.append(item)
        arm(for: deadline)
    }

    func remove(_ item: any Expiring) {
        let index = item.deadlineIndex
        guard waiting.indices.contains(index) else { return }
        item.deadlineIndex = -1
        let last = waiting.removeLast()
        if index < waiting.count {
            waiting[index] = last
            last.deadlineIndex = index
        }
    }

    func cancelAll() {
        timer?.cancel()
        timer = nil
        armedFor = nil
        for item in waiting { item.deadlineIndex = -1 }
        waiting = []
    }

    private func arm(for deadline: NIODeadline) {
        if let armedFor, armedFor <= deadline { return }
        timer?.cancel()
        armedFor = deadline
        timer = eventLoop.scheduleTask(deadline: deadline) { self.fire() }
    }

    private func fire() {
        armedFor = nil
        timer = nil
        let now = NIODeadline.now()
        let expired = waiting.filter { item in item.deadline.map { $0 <= now } ?? false }
        for item in expired {
            remove(item)
            item.expire()
        }
        var earliest: NIODeadline?
        for item in waiting {
            guard let deadline = item.deadline else { continue }
            earliest = earliest.map { min($0, deadline) } ?? deadline
        }
        if let earliest { arm(for: max(earliest, now + Self.resolution)) }
    }
}

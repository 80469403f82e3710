internal import NIOCore

extension EventLoop {
    /// Runs `body` at once when already on this loop, otherwise as its next task.
    ///
    /// Calls from one loop to another keep their order.
    func runNow(_ body: @escaping @Sendable () -> Void) {
        if inEventLoop {
            body()
        } else {
            execute(body)
        }
    }
}

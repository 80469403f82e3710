import Glibc

/// This process's environment.
func processEnvironment() -> [String: String] {
    var variables: [String: String] = [:]
    var entry = environ
    while let pointer = entry.pointee {
        let text = String(cString: pointer)
        if let separator = text.firstIndex(of: "=") {
            variables[String(text[..<separator])] = String(text[text.index(after: separator)...])
        }
        entry += 1
    }
    return variables
}

/// What `errno` means, as the system words it.
func systemMessage(_ code: Int32) -> String {
    String(cString: strerror(code))
}

/// Runs `body` on a thread of its own, for calls that block for as long as the process lives.
func detachThread(_ body: @escaping @Sendable () -> Void) {
    final class Box: Sendable {
        let body: @Sendable () -> Void
        init(_ body: @escaping @Sendable () -> Void) { self.body = body }
    }
    var thread = pthread_t()
    let argument = Unmanaged.passRetained(Box(body)).toOpaque()
    let result = pthread_create(
        &thread, nil,
        { argument in
            if let argument { Unmanaged<Box>.fromOpaque(argument).takeRetainedValue().body() }
            return nil
        }, argument)
    guard result == 0 else {
        fatalError("cannot start a thread: \(systemMessage(result))")
    }
    pthread_detach(thread)
}

/// Text as a JSON string, with its quotes.
func jsonString(_ text: String) -> String {
    var result = "\""
    for scalar in text.unicodeScalars {
        switch scalar {
        case "\"": result += "\\\""
        case "\\": result += "\\\\"
        case "\n": result += "\\n"
        case "\t": result += "\\t"
        case "\u{0}"..<" ":
            let digits = String(scalar.value, radix: 16)
            result += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
        default: result.unicodeScalars.append(scalar)
        }
    }
    return result + "\""
}

/// Replaces a file's content whole: a reader sees the old text or the new, never a part.
func writeAtomically(_ text: String, to path: String) throws(CommandFailure) {
    let temporary = path + ".tmp"
    let descriptor = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
    guard descriptor >= 0 else {
        throw CommandFailure("cannot create \(temporary): \(systemMessage(errno))")
    }
    var rest = Array(text.utf8)[...]
    while !rest.isEmpty {
        let count = rest.withUnsafeBytes { write(descriptor, $0.baseAddress, $0.count) }
        if count < 0, errno == EINTR { continue }
        guard count > 0 else {
            let code = errno
            close(descriptor)
            throw CommandFailure("cannot write \(temporary): \(systemMessage(code))")
        }
        rest = rest.dropFirst(count)
    }
    close(descriptor)
    guard rename(temporary, path) == 0 else {
        throw CommandFailure("cannot rename \(temporary): \(systemMessage(errno))")
    }
}

/// Makes a directory and those above it; one that is there is fine.
func makeDirectories(_ path: String) throws(CommandFailure) {
    var made = path.hasPrefix("/") ? "/" : ""
    for component in path.split(separator: "/") {
        made += component
        if mkdir(made, 0o755) != 0, errno != EEXIST {
            throw CommandFailure("cannot make the directory \(made): \(systemMessage(errno))")
        }
        made += "/"
    }
}

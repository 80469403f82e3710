internal import Essentials

/// What a registration's log directories are, beside those of the broker's last one.
struct DirectoryStanding {
    /// Whether one is gone, and everything that was on it.
    var hasLost: Bool
    /// Whether one is there that was not: it may have taken the place of a lost one.
    var hasNew: Bool
    /// Those that the broker has and can't use: the named ones, and the absent ones that it says it
    /// could not open.
    var offline: [DirectoryID]

    init(of request: RegistrationRequest, after known: BrokerRegistration?) {
        guard let known else {
            self.init(hasLost: true, hasNew: true, offline: request.offlineDirectories)
            return
        }
        let before = known.directories + known.offlineDirectories
        let now = Set(request.directories + request.offlineDirectories)
        let absent = before.filter { !now.contains($0) }
        // When more are absent than could not be opened, nobody can say which of them are lost.
        let hasLost = absent.count > request.missingDirectories
        self.init(
            hasLost: hasLost, hasNew: !now.isSubset(of: before),
            offline: request.offlineDirectories + (hasLost ? [] : absent))
    }

    private init(hasLost: Bool, hasNew: Bool, offline: [DirectoryID]) {
        self.hasLost = hasLost
        self.hasNew = hasNew
        self.offline = offline
    }
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

/// @title Earned, but not yet claimable
/// @notice A queue of amounts that unlock some time after they were earned. Unlock times are rounded up to a multiple
/// of a 64th of the delay (of whole seconds), so that amounts earned close together share an entry, and entries that
/// are due fold into one sum as new ones arrive: while the delay stays the same, a queue holds 66 entries at most,
/// however often it is credited and however rarely claimed.
library ServiceFees {
    /// Buckets per delay: an amount waits at most a 64th of it, or a second, longer than it must.
    uint64 internal constant BUCKETS = 64;
    /// Due entries folded for each new one; more than one, so that the queue shrinks back after a change of delay.
    uint256 private constant FOLD = 2;

    struct Bucket {
        uint64 unlockAt;
        uint128 amount;
    }

    /// Entries `head..tail` wait, by rising `unlockAt`; `due` is the sum of those that no longer do.
    struct Queue {
        uint64 head;
        uint64 tail;
        uint128 due;
        mapping(uint64 index => Bucket) buckets;
    }

    /// @notice Adds an amount that unlocks `delay` seconds from now, up to a 64th of it later. An amount never
    /// overtakes one that was earned before it: after a cut of the delay it may wait as long as the last one.
    function credit(Queue storage q, uint128 amount, uint64 delay) internal {
        uint256 width = delay == 0 ? 1 : Math.ceilDiv(delay, BUCKETS);
        // Seconds of this age of the universe, plus some months.
        // forge-lint: disable-next-line(unsafe-typecast)
        uint64 unlockAt = uint64(Math.ceilDiv(block.timestamp + delay, width) * width);
        uint64 tail = q.tail;
        if (tail != q.head) {
            Bucket storage last = q.buckets[tail - 1];
            if (unlockAt <= last.unlockAt) {
                last.amount += amount;
                return;
            }
        }
        q.buckets[tail] = Bucket({unlockAt: unlockAt, amount: amount});
        q.tail = tail + 1;
        fold(q, FOLD);
    }

    /// @notice Takes out what is unlocked, looking at no more than `entries` of the queue.
    function take(Queue storage q, uint256 entries) internal returns (uint128 amount) {
        fold(q, entries);
        amount = q.due;
        q.due = 0;
    }

    /// @notice Moves up to `entries` unlocked entries into the sum that is due.
    function fold(Queue storage q, uint256 entries) private {
        uint64 head = q.head;
        uint64 tail = q.tail;
        uint128 due = q.due;
        uint64 first = head;
        while (head != tail && entries != 0) {
            Bucket memory bucket = q.buckets[head];
            if (bucket.unlockAt > block.timestamp) break;
            due += bucket.amount;
            delete q.buckets[head];
            ++head;
            --entries;
        }
        if (head != first) {
            q.head = head;
            q.due = due;
        }
    }

    /// @notice What could be taken now, and what still waits.
    function sums(Queue storage q) internal view returns (uint256 now_, uint256 pending) {
        now_ = q.due;
        for (uint64 i = q.head; i != q.tail; ++i) {
            Bucket memory bucket = q.buckets[i];
            if (bucket.unlockAt > block.timestamp) pending += bucket.amount;
            else now_ += bucket.amount;
        }
    }
}

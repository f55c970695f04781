// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";

/// @title Many linear vestings in one account
/// @notice Each amount vests linearly over the same period. Let V(t) be the sum of all amounts added by the time t, and
/// J its integral: then `(J(t) - J(t - period)) / period` has vested at t. So it is enough to keep V and J at the times
/// at which V grew; those are rounded up to a 64th of the period, so that 66 of them are within reach at most, and lie
/// in a ring. Adding again, however often, delays nothing that was added before.
library Vesting {
    /// Steps per period: an amount begins to vest at most a 64th of it, or a second, late.
    uint64 internal constant STEPS = 64;
    /// Places of the ring; more than steps that can be within a period, so that none is overwritten too early.
    uint256 internal constant RING = 128;

    /// An account, apart from the points: one word, `claimed (96 bits) | released (96) | lastAt (32) | count (24) |
    /// seized (8)`. The last point, number `count - 1`, is not in the ring yet: it is at `lastAt`, and its sum follows
    /// from `claimed`. `seized` says that something was taken from what was never claimed.
    struct Head {
        uint96 claimed;
        uint96 released;
        uint32 lastAt;
        uint24 count;
        bool seized;
    }

    /// A point is V and J at a time, in seconds since the deployment: `integral (128 bits) | sum (96) | at (32)`. J is
    /// below 2^96 * 2^32.
    struct Account {
        uint256 head;
        mapping(uint256 place => uint256) points;
    }

    /// @notice Takes a head apart.
    function read(Account storage a) internal view returns (Head memory h) {
        return unpack(a.head);
    }

    function unpack(uint256 word) internal pure returns (Head memory h) {
        // Each conversion keeps the bits that are its field's.
        // forge-lint: disable-start(unsafe-typecast)
        h.claimed = uint96(word >> 160);
        h.released = uint96(word >> 64);
        h.lastAt = uint32(word >> 32);
        h.count = uint24(word >> 8);
        h.seized = uint8(word) != 0;
        // forge-lint: disable-end(unsafe-typecast)
    }

    function pack(Head memory h) internal pure returns (uint256) {
        return (uint256(h.claimed) << 160) | (uint256(h.released) << 64) | (uint256(h.lastAt) << 32)
            | (uint256(h.count) << 8) | (h.seized ? 1 : 0);
    }

    /// @notice The first time at or after `now_` at which an amount can begin to vest.
    function step(uint256 now_, uint64 period) internal pure returns (uint32) {
        unchecked {
            uint256 width = (uint256(period) + STEPS - 1) / STEPS;
            // Seconds since the deployment: 136 years fit. Rounding up to a step is a division and a multiplication.
            // slither-disable-next-line divide-before-multiply
            uint256 at = (now_ + width - 1) / width * width;
            // forge-lint: disable-next-line(unsafe-typecast)
            return uint32(at);
        }
    }

    /// @notice Makes room for an amount that begins to vest at `at`; `sum` is what was added so far.
    function advance(Account storage a, Head memory h, uint96 sum, uint32 at) internal {
        uint256 count = h.count;
        uint32 lastAt = h.lastAt;
        if (count == 0) {
            h.count = 1;
        } else if (at > lastAt) {
            unchecked {
                // 96 bits times 32, and sums of such over times that add up to 32 bits.
                a.points[(count - 1) % RING] = (lastIntegral(a, count, lastAt) << 128) | (uint256(sum) << 32) | lastAt;
                // A point a step: 2^24 of them take as many 64ths of a period.
                // The count is far below 2^24: one for each bucket of a period.
                // forge-lint: disable-next-line(unsafe-typecast)
                h.count = uint24(count + 1);
            }
        } else {
            return;
        }
        h.lastAt = at;
    }

    /// @notice What has vested at `now_` of the amounts that `sum` is the sum of.
    function vested(Account storage a, Head memory h, uint96 sum, uint256 now_, uint64 period)
        internal
        view
        returns (uint96)
    {
        if (h.count == 0) return 0;
        uint256 high = integralAt(a, h, sum, now_);
        uint256 low = now_ > period ? integralAt(a, h, sum, now_ - period) : 0;
        // At most sum: V never exceeds it.
        // forge-lint: disable-next-line(unsafe-typecast)
        return uint96(Math.min((high - low) / period, sum));
    }

    /// J at the last point.
    function lastIntegral(Account storage a, uint256 count, uint256 lastAt) private view returns (uint256) {
        if (count < 2) return 0;
        return integralFrom(a.points[(count - 2) % RING], lastAt);
    }

    /// J at a time at or after a point, and before the next.
    function integralFrom(uint256 point, uint256 time) private pure returns (uint256) {
        unchecked {
            // Packed fields are cut out of their word on purpose.
            // forge-lint: disable-next-line(unsafe-typecast)
            return (point >> 128) + uint96(point >> 32) * (time - uint32(point));
        }
    }

    /// J at a time: from the last point at or before it on, V is what it was there.
    function integralAt(Account storage a, Head memory h, uint96 sum, uint256 time) private view returns (uint256) {
        uint256 count = h.count;
        if (time >= h.lastAt) return lastIntegral(a, count, h.lastAt) + uint256(sum) * (time - h.lastAt);
        // Points `low..high` are in the ring; none that was overwritten is within reach.
        uint256 high = count - 1;
        uint256 least = high > RING ? high - RING : 0;
        uint256 low = least;
        while (low < high) {
            uint256 middle = (low + high) / 2;
            // forge-lint: disable-next-line(unsafe-typecast)
            if (uint32(a.points[middle % RING]) <= time) low = middle + 1;
            else high = middle;
        }
        return low == least ? 0 : integralFrom(a.points[(low - 1) % RING], time);
    }
}

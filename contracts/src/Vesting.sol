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

    /// V and J at a time, in seconds since the deployment. J is below 2^96 * 2^32.
    struct Point {
        uint32 at;
        uint96 sum;
        uint128 integral;
    }

    /// One slot, besides the points. The last point, number `count - 1`, is not in the ring yet: it is at `lastAt`, and
    /// its sum follows from `claimed`. `seized` says that something was taken from what was never claimed.
    struct Account {
        uint96 claimed;
        uint96 released;
        uint32 lastAt;
        uint24 count;
        bool seized;
        mapping(uint256 place => Point) points;
    }

    /// @notice The first time at or after `now_` at which an amount can begin to vest.
    function step(uint256 now_, uint64 period) internal pure returns (uint32) {
        uint256 width = Math.ceilDiv(period, STEPS);
        // Seconds since the deployment: 136 years fit.
        // forge-lint: disable-next-line(unsafe-typecast)
        return uint32(Math.ceilDiv(now_, width) * width);
    }

    /// @notice Makes room for an amount that begins to vest at `at`; `sum` is what was added so far.
    /// @return count the number of points from now on
    function advance(Account storage a, uint256 count, uint32 lastAt, uint96 sum, uint32 at)
        internal
        returns (uint256)
    {
        if (count == 0) return 1;
        if (at <= lastAt) return count;
        a.points[(count - 1) % RING] = Point({at: lastAt, sum: sum, integral: lastIntegral(a, count, lastAt)});
        return count + 1;
    }

    /// @notice What has vested at `now_` of the amounts that `sum` is the sum of.
    function vested(Account storage a, uint96 sum, uint256 now_, uint64 period) internal view returns (uint96) {
        uint256 count = a.count;
        if (count == 0) return 0;
        uint256 high = integralAt(a, count, sum, now_);
        uint256 low = now_ > period ? integralAt(a, count, sum, now_ - period) : 0;
        // At most sum: V never exceeds it.
        // forge-lint: disable-next-line(unsafe-typecast)
        return uint96(Math.min((high - low) / period, sum));
    }

    /// J at the last point.
    function lastIntegral(Account storage a, uint256 count, uint32 lastAt) private view returns (uint128) {
        if (count < 2) return 0;
        Point memory before = a.points[(count - 2) % RING];
        return before.integral + uint128(before.sum) * (lastAt - before.at);
    }

    /// J at a time: from the last point at or before it on, V is what it was there.
    function integralAt(Account storage a, uint256 count, uint96 sum, uint256 time) private view returns (uint256) {
        uint32 lastAt = a.lastAt;
        if (time >= lastAt) return lastIntegral(a, count, lastAt) + uint256(sum) * (time - lastAt);
        // Points `low..high` are in the ring; none that is overwritten is within reach.
        uint256 high = count - 1;
        uint256 low = high > RING ? high - RING : 0;
        uint256 least = low;
        while (low < high) {
            uint256 middle = (low + high) / 2;
            if (a.points[middle % RING].at <= time) low = middle + 1;
            else high = middle;
        }
        if (low == least) return 0;
        Point memory found = a.points[(low - 1) % RING];
        return found.integral + uint256(found.sum) * (time - found.at);
    }
}

// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Base} from "./Base.sol";

/// What forge asks of an invariant test: which contract to call at random.
abstract contract Invariants is Base {
    address internal handler;

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = handler;
    }
}

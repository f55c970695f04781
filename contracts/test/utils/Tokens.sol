// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// Keeps a hundredth of each transfer.
contract FeeToken is ERC20 {
    constructor(address to) ERC20("Fee", "FEE") {
        _mint(to, 1_000_000e18);
    }

    function _update(address from, address to, uint256 value) internal override {
        super._update(from, to, value);
        if (from != address(0) && to != address(0)) super._update(to, address(0), value / 100);
    }
}

/// Refuses to pay whom it is told to refuse, as tokens with a deny list do.
contract DenyToken is ERC20 {
    mapping(address => bool) public denied;

    constructor(address to) ERC20("Deny", "DENY") {
        _mint(to, 1_000_000e18);
    }

    function deny(address who, bool yes) external {
        denied[who] = yes;
    }

    function _update(address from, address to, uint256 value) internal override {
        require(!denied[to], "denied");
        super._update(from, to, value);
    }
}

/// Calls a target back in the middle of each transfer, as a hooked token can.
contract HookToken is ERC20 {
    address public target;
    bytes public call;
    bool public entered;
    bytes public answer;

    constructor(address to) ERC20("Hook", "HOOK") {
        _mint(to, 1_000_000e18);
    }

    function hook(address target_, bytes calldata call_) external {
        target = target_;
        call = call_;
        entered = true;
    }

    function _update(address from, address to, uint256 value) internal override {
        super._update(from, to, value);
        if (target != address(0)) {
            (entered, answer) = target.call(call);
        }
    }
}

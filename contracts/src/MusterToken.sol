// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";
import {ERC20Votes} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Votes.sol";
import {ERC3009} from "@openzeppelin/contracts/token/ERC20/extensions/draft-ERC3009.sol";
import {Nonces} from "@openzeppelin/contracts/utils/Nonces.sol";
import {Time} from "@openzeppelin/contracts/utils/types/Time.sol";

/// @title The network's token
/// @notice A fixed supply, minted once. Approvals by signature (ERC-2612), transfers by signature (ERC-3009), and votes
/// counted by time (ERC-6372).
contract MusterToken is ERC20, ERC20Permit, ERC20Votes, ERC3009 {
    /// @notice Everything that will ever exist, in the smallest unit (18 decimals).
    uint256 public constant SUPPLY = 42_000_000_000e18;

    /// @param treasury receives the whole supply
    constructor(address treasury) ERC20("Muster", "MUST") ERC20Permit("Muster") {
        _mint(treasury, SUPPLY);
    }

    /// @notice The clock of votes: seconds. Block numbers are no clock on a rollup.
    function clock() public view override returns (uint48) {
        return Time.timestamp();
    }

    /// @notice ERC-6372's description of {clock}.
    // solhint-disable-next-line func-name-mixedcase
    function CLOCK_MODE() public pure override returns (string memory) {
        return "mode=timestamp";
    }

    /// @inheritdoc ERC20Permit
    function nonces(address owner) public view override(ERC20Permit, Nonces) returns (uint256) {
        return super.nonces(owner);
    }

    function _update(address from, address to, uint256 value) internal override(ERC20, ERC20Votes) {
        super._update(from, to, value);
    }
}

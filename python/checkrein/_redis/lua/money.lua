-- Amounts as tables of five numbers, for what takes more than the short way. See record.lua.
local NOTHING = {0, 0, 0, 0, 0}

local function plus(a, b)
    local sum, carry = {0, 0, 0, 0, 0}, 0
    for limb = 5, 1, -1 do
        local digit = a[limb] + b[limb] + carry
        carry = 0
        if digit >= BASE then
            digit, carry = digit - BASE, 1
        end
        sum[limb] = digit
    end
    return sum
end

local function minus(a, b)
    local rest, borrow = {0, 0, 0, 0, 0}, 0
    for limb = 5, 1, -1 do
        local digit = a[limb] - b[limb] - borrow
        borrow = 0
        if digit < 0 then
            digit, borrow = digit + BASE, 1
        end
        rest[limb] = digit
    end
    return rest
end

local function is_more(a, b)
    for limb = 1, 5 do
        if a[limb] ~= b[limb] then
            return a[limb] > b[limb]
        end
    end
    return false
end

local function is_nothing(a)
    return a[1] == 0 and a[2] == 0 and a[3] == 0 and a[4] == 0 and a[5] == 0
end

-- Whether a sum is one that the memory store could hold: below 2^127 of 10^-12.
local function fits(a)
    return a[1] < 1701411834604 or a[1] == 1701411834604 and a[2] < 69231731687303
end

local function is_money(a)
    if type(a) ~= 'table' or #a ~= 5 then
        return false
    end
    for limb = 1, 5 do
        local digit = a[limb]
        if type(digit) ~= 'number' or not (digit >= 0 and digit < BASE) or digit ~= math.floor(digit) then
            return false
        end
    end
    return true
end

-- The decimal places an amount is shown with and its numbers as text; three of them where the others are nothing.
local function shown(a, digits)
    if a[1] == 0 and a[4] == 0 and a[5] == 0 then
        return string.format('%d %d %d', digits, a[2], a[3])
    end
    return string.format('%d %d %d %d %d %d', digits, a[1], a[2], a[3], a[4], a[5])
end

-- Records that a repository holds a layer. A longer life, from a client with a longer TTL, is not shortened, so
-- that the order of records does not matter. Times are this server's.
-- A layer on the home registry alone needs no flags: its set says it all, with a member such as '=1234' for its size.
-- Of any other layer the flags list all registries, and have the size.
-- KEYS: the layer's set of sources on one registry, its flags, its set of sources on the home registry
-- ARGV: repository, the registry's field, the home registry's field or '' if there is none, seconds to live,
--       the set's bound, the size in bytes or ''
local sources, flags, at_home = KEYS[1], KEYS[2], KEYS[3]
local repository, field, home, ttl, bound, size = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
local now = tonumber(redis.call('TIME')[1])

local function sizes(set)
  local found = {}
  for _, member in ipairs(redis.call('SRANDMEMBER', set, bound)) do
    if string.find(member, '^=%d+$') then
      found[#found + 1] = member
    end
  end
  return found
end

local function end_of(name)
  local known = redis.call('HGET', flags, name)
  return known and #known <= 11 and string.find(known, '^%d+$') and tonumber(known) or 0
end

local fields, needs_flags = redis.pcall('HLEN', flags), field ~= home
if type(fields) ~= 'number' then  -- of another type, which is an error once the source is there
  needs_flags = true
elseif fields > 1000 then  -- a stranger's: to read them all takes long, in each look-up
  redis.call('DEL', flags)
  fields = 0
end
local has_flags = fields ~= 0
if has_flags and not needs_flags then
  local all = redis.call('HGETALL', flags)
  for i = 1, #all, 2 do
    -- must_mount: a flag of 0.1.0, which stays until an operator carries it over
    if all[i] == 'must_mount' or string.sub(all[i], 1, 1) == '@' and all[i] ~= field and end_of(all[i]) > now then
      needs_flags = true
    elseif all[i] == 'size' and size == '' and #all[i + 1] <= 19 and string.find(all[i + 1], '^%d+$') then
      size = all[i + 1]
    end
  end
end

-- Old members are removed before new ones are added: a set that exceeds the bound once never becomes compact again.
-- From a set that is far too large only some members are removed in each call, so that no call takes long.
local member = (needs_flags or size == '') and repository or '=' .. size
local over = redis.call('SCARD', sources) - bound + 1 - redis.call('SISMEMBER', sources, repository)
if member ~= repository and redis.call('SISMEMBER', sources, member) == 0 then
  for _, other in ipairs(sizes(sources)) do
    over = over - redis.call('SREM', sources, other)
  end
  over = over + 1
end
if over > 0 then
  if not needs_flags then  -- the size stays
    member = member == repository and sizes(sources)[1] or member
  end
  if member ~= repository then
    redis.call('SREM', sources, member)
    over = redis.call('SCARD', sources) - bound + 2 - redis.call('SISMEMBER', sources, repository)
  end
  redis.call('SPOP', sources, math.min(over, 1000))
end
redis.call('SADD', sources, repository)
if member ~= repository and redis.call('SCARD', sources) < bound then
  redis.call('SADD', sources, member)
end
if redis.call('TTL', sources) < ttl then
  redis.call('EXPIRE', sources, ttl)
end

if not needs_flags then
  if has_flags then
    redis.call('DEL', flags)
  end
  return 1
end
if end_of(field) < now + ttl then
  redis.call('HSET', flags, field, string.format('%d', now + ttl))
end
if home ~= '' and home ~= field and end_of(home) <= now then
  local left, known = redis.call('TTL', at_home), sizes(at_home)[1]
  if left > 0 then
    redis.call('HSET', flags, home, string.format('%d', now + left))
  end
  if left > 0 and known and size == '' and redis.call('HEXISTS', flags, 'size') == 0 then
    size = string.sub(known, 2)
  end
end
if size ~= '' then
  redis.call('HSET', flags, 'size', size)
end
local left = redis.call('TTL', flags)
if left < ttl and not (left == -1 and redis.call('HEXISTS', flags, 'must_mount') == 1) then
  redis.call('EXPIRE', flags, ttl)
end
return 1

-- Records that a repository holds a layer. A longer life, from a client with a longer TTL, is not shortened, so
-- that the order of records does not matter.
-- KEYS: the layer's set of sources on one registry, the layer's flags
-- ARGV: repository, the registry's field, seconds to live, when that ends (epoch seconds), the set's bound,
--       the size in bytes or '', '1' to set must-mount or ''
local sources, flags = KEYS[1], KEYS[2]
local repository, field, ttl, ends, bound = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], tonumber(ARGV[5])

-- Old members are removed before the new one is added: a set that exceeds the bound once never becomes compact
-- again. From a set that is far too large only some members are removed in each call, so that no call takes long.
local over = redis.call('SCARD', sources) + 1 - redis.call('SISMEMBER', sources, repository) - bound
if over > 0 then
  redis.call('SPOP', sources, math.min(over, 1000))
end
redis.call('SADD', sources, repository)
if redis.call('TTL', sources) < ttl then
  redis.call('EXPIRE', sources, ttl)
end

local known = redis.call('HGET', flags, field)
if not (known and string.find(known, '^%d+$') and #known == #ends and known > ends) then
  redis.call('HSET', flags, field, ends)
end
if ARGV[6] ~= '' then
  redis.call('HSET', flags, 'size', ARGV[6])
end
if ARGV[7] ~= '' then
  redis.call('HSET', flags, 'must_mount', '1')
end
if redis.call('HEXISTS', flags, 'must_mount') == 1 then
  redis.call('PERSIST', flags)
elseif redis.call('TTL', flags) < ttl then
  redis.call('EXPIRE', flags, ttl)
end
return 1

-- Records repositories that an account may not read. The set expires as a whole, an hour after its first entry.
-- KEYS: the account's set for one registry
-- ARGV: seconds to live, bound, names
local life, bound = tonumber(ARGV[1]), tonumber(ARGV[2])
for i = 3, #ARGV do
  redis.call('SADD', KEYS[1], ARGV[i])
end
local excess = redis.call('SCARD', KEYS[1]) - bound
if excess > 0 then
  redis.call('SPOP', KEYS[1], excess)
end
local left = redis.call('TTL', KEYS[1])
if left < 0 or left > life then
  redis.call('EXPIRE', KEYS[1], life)
end
return 1
